"""Facts of this machine, for the start-up plan and `doctor`. Nothing is decided here.

MLX is imported late: OpenBLAS must be in place before.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from vllm_mlx.model.blas import BlasReport, openblas_threads

# The only implementation so far, on every backend.
ATTENTION = "plain MLX: gather the blocks, then attend (no paged kernel yet)"
PRODUCT_ROWS = 512  # of the square matrices that are multiplied for a measurement


def gib(count: float) -> str:
    """Bytes for a person: 1.52 GiB, 37 MiB, 12.0 KiB."""
    if count >= 2**30 // 10:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def platform_text() -> str:
    return f"{platform.platform(terse=True)}, {platform.machine()}"


def versions_text() -> str:
    packages = ("mlx", "mlx-lm", "transformers")
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])


def is_on_cpu() -> bool:
    """Whether MLX computes on the CPU here."""
    import mlx.core as mx

    return bool(mx.default_device() == mx.Device(mx.cpu))


def backend_text() -> str:
    import mlx.core as mx

    if is_on_cpu():
        return f"CPU ({os.cpu_count()} cores)"
    name = mx.device_info().get("device_name", "")
    return f"Metal ({name})" if mx.metal.is_available() else f"CUDA ({name})"


def blas_text(blas: BlasReport) -> str:
    """What multiplies float32 matrices on the CPU, and how to get better."""
    if blas.found:
        threads = openblas_threads()
        return f"OpenBLAS, {threads} thread{'s' if threads != 1 else ''} ({blas.library})"
    if sys.platform == "darwin":
        return "Accelerate, part of macOS"
    return f"MLX's own; {blas.advice}"


def product_gflops() -> float:
    """Speed of a float32 matrix product on the default device, best of three."""
    import mlx.core as mx

    a = mx.random.normal((PRODUCT_ROWS, PRODUCT_ROWS))
    mx.eval(a, a @ a)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - began)
    return 2 * PRODUCT_ROWS**3 / min(seconds) / 1e9


def memory_text() -> str:
    """Memory of the device that computes, and of this machine."""
    from vllm_mlx.cache.budget import available_memory_bytes, device_memory_bytes

    device, free = gib(device_memory_bytes()), gib(available_memory_bytes())
    return f"{device} on the device; {free} available on this machine"


def usable_memory_bytes() -> int:
    """What weights, keys and values may take together."""
    from vllm_mlx.cache.budget import available_memory_bytes, device_memory_bytes

    return available_memory_bytes() if is_on_cpu() else device_memory_bytes()


def disk_text(folder: Path) -> str:
    """Free bytes where ``folder`` is or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return f"{gib(shutil.disk_usage(existing).free)} free for {folder}"
