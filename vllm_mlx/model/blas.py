"""A fast BLAS for MLX on Linux CPUs, put in place before MLX is imported. Never imports MLX.

The wheel of mlx for Linux brings the reference BLAS. Its symbols are found by name, so another
library that exports ``cblas_sgemm`` and was loaded into the global scope earlier takes its place.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NAMES = ("libopenblas.so.0", "libopenblas.so", "libopenblasp.so.0", "libopenblaso.so.0")
FOLDERS = (
    "/usr/lib/x86_64-linux-gnu/openblas-pthread",
    "/usr/lib/aarch64-linux-gnu/openblas-pthread",
    "/usr/lib64",
    "/usr/local/lib",
    "/opt/OpenBLAS/lib",
)
SYMBOL = "cblas_sgemm"  # MLX's; a build with a prefix or suffix in its names is of no use
ADVICE = (
    "install OpenBLAS and start again: float32 products become 13 to 18 times faster "
    "(`apt-get install libopenblas0-pthread`, `dnf install openblas`, `conda install libopenblas`)"
)
TOO_LATE = "mlx was imported before OpenBLAS could be loaded; call preload_openblas() first"


class BlasReport(NamedTuple):
    """``found``: MLX on the CPU multiplies with OpenBLAS. ``advice`` is empty if all is well."""

    found: bool
    library: str | None
    advice: str


def _candidates() -> Iterator[str]:
    yield from NAMES  # wherever the system's loader looks
    prefixes = [sys.prefix, os.environ.get("CONDA_PREFIX", "")]
    folders = [str(Path(prefix) / "lib") for prefix in prefixes if prefix] + list(FOLDERS)
    for folder in folders:
        for name in NAMES:
            path = Path(folder) / name
            if path.exists():
                yield str(path)


def _loaded_path(name: str) -> str:
    """Where the system's loader found ``name``, as /proc tells; the name itself if it does not."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name
    stem = Path(name).name.split(".so")[0]
    paths = {line.split(maxsplit=5)[-1] for line in lines if stem in line}
    return min(paths, default=name)


def _global_scope() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _is_active() -> bool:
    """Whether an OpenBLAS with plain names is in the global scope already."""
    scope = _global_scope()
    return hasattr(scope, "openblas_get_config") and hasattr(scope, SYMBOL)


def preload_openblas() -> BlasReport:
    """Load OpenBLAS for MLX to find; calling it again changes nothing.

    Does nothing on other systems, where MLX brings a good library itself. The number of threads
    is left to OPENBLAS_NUM_THREADS.
    """
    if not sys.platform.startswith("linux"):
        return BlasReport(False, None, "")
    if _is_active():
        return BlasReport(True, _loaded_path("libopenblas.so"), "")
    if "mlx.core" in sys.modules:
        return BlasReport(False, None, TOO_LATE)
    for name in _candidates():
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_LOCAL)
            if hasattr(library, SYMBOL):
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)  # the same copy, now for everybody
                return BlasReport(True, _loaded_path(name), "")
        except OSError:
            continue
    return BlasReport(False, None, ADVICE)


def openblas_threads() -> int | None:
    """How many threads OpenBLAS uses for one product; None if it is not loaded."""
    scope = _global_scope()
    if not hasattr(scope, "openblas_get_num_threads"):
        return None
    return int(scope.openblas_get_num_threads())
