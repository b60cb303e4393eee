"""`vllm-mlx doctor`: what this machine offers, and what would stop a model from running."""

from vllm_mlx import __version__
from vllm_mlx.commands.machine import (
    ATTENTION,
    backend_text,
    blas_text,
    disk_text,
    gib,
    is_on_cpu,
    memory_text,
    platform_text,
    product_gflops,
    usable_memory_bytes,
    versions_text,
)
from vllm_mlx.commands.models import local_folder
from vllm_mlx.commands.plan import table
from vllm_mlx.errors import ModelError
from vllm_mlx.model.blas import BlasReport
from vllm_mlx.model.cache_folder import cache_root
from vllm_mlx.model.inspect import Inspection, describe, inspect_model
from vllm_mlx.model.resolve import find_embedded_gguf

LEAST_TOKENS = 256  # of keys and values, or a model is not worth starting


def doctor(model: str | None, blas: BlasReport) -> int:
    """Print the findings. Returns 0 if this machine can serve (``model``, if one is named)."""
    print(f"vllm-mlx {__version__}\n{table(machine_rows(blas))}")
    problem = compute_problem()
    if model is not None and problem is None:
        problem = model_problem(model)
    what = f"'{model}'" if model else "a model"
    print(f"\nthis machine can serve {what}" if problem is None else f"\nproblem: {problem}")
    return 0 if problem is None else 1


def machine_rows(blas: BlasReport) -> list[tuple[str, str]]:
    return [
        ("platform", platform_text()),
        ("versions", versions_text()),
        ("backend", backend_text()),
        ("BLAS", blas_text(blas)),
        ("attention", ATTENTION),
        ("memory", memory_text()),
        ("disk", disk_text(cache_root())),
        ("default", embedded_text()),
    ]


def embedded_text() -> str:
    try:
        path = find_embedded_gguf()
    except ModelError as error:
        return str(error)
    return f"SmolLM2-135M-Instruct ({gib(path.stat().st_size)}, {path.name})"


def compute_problem() -> str | None:
    """Multiply two matrices: what MLX says it can do, it must do."""
    try:
        speed = product_gflops()
    except Exception as error:  # whatever a broken driver raises
        return f"MLX cannot compute here: {error}"
    print(table([("speed", f"{speed:.0f} GFLOP/s in a float32 product")]))
    return None


def model_problem(name: str) -> str | None:
    """Print what is known of a model on disk; the first thing that stops it, or None."""
    try:
        found = inspect_model(local_folder(name), on_cpu=is_on_cpu())
    except ModelError as error:
        return str(error)
    memory = usable_memory_bytes()
    print("\n" + "\n".join(f"  {line}" for line in describe(found, memory)))
    return stopping(found, memory)


def stopping(found: Inspection, memory_bytes: int) -> str | None:
    """The first reason why a model cannot run in ``memory_bytes``; None if there is none."""
    if not found.is_runnable:
        return f"mlx-lm has no architecture '{found.capabilities.model_type}'"
    if found.is_whole is False:
        return f"files of {found.folder} are damaged; remove that folder"
    needed = found.run_bytes + LEAST_TOKENS * found.kv_bytes_per_token
    if needed > memory_bytes:
        return f"it needs {gib(needed)} of memory, and {gib(memory_bytes)} are available"
    return None
