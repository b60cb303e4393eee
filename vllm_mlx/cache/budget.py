"""How many bytes of memory keys and values may take."""

import os

import mlx.core as mx
from msgspec import Struct

from vllm_mlx.errors import ModelError

GIB = 1 << 30
AUTO_SHARE = 0.6  # of what is left beside the weights; the rest is for activations and others
SMALLEST_TOKENS = 256


class MemoryPlan(Struct, frozen=True):
    """All in bytes, but for ``blocks``. ``transient_bytes`` is what a step may need besides."""

    total_bytes: int
    weights_bytes: int
    kv_bytes: int
    transient_bytes: int
    blocks: int


def plan_memory(
    memory_gib: float | str,
    weights_bytes: int,
    kv_bytes_per_token: int,
    block_tokens: int,
) -> MemoryPlan:
    """Split the device's memory. ``memory_gib`` is a number, or ``auto``.

    Raises ModelError where not even a short prompt would fit.
    """
    total = device_memory_bytes()
    left = max(0, available_memory_bytes() if _is_cpu() else total - weights_bytes)
    kv_bytes = int(left * AUTO_SHARE) if memory_gib == "auto" else int(float(memory_gib) * GIB)
    per_block = max(1, kv_bytes_per_token) * block_tokens
    blocks = kv_bytes // per_block
    if blocks * block_tokens < SMALLEST_TOKENS:
        raise ModelError(
            f"{kv_bytes / GIB:.2f} GiB for keys and values hold {blocks * block_tokens} tokens,"
            f" less than {SMALLEST_TOKENS}; raise cache.memory_gib or take a smaller model"
        )
    return MemoryPlan(total, weights_bytes, kv_bytes, max(0, left - kv_bytes), blocks)


def device_memory_bytes() -> int:
    """Memory of the device that computes."""
    if not _is_cpu():
        info = mx.device_info()
        size = info.get("max_recommended_working_set_size") or info.get("memory_size")
        if size:
            return int(size)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int:
    """Memory of this machine that programs could still take, swap not counted."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return device_memory_bytes() // 2


def _is_cpu() -> bool:
    return bool(mx.default_device() == mx.Device(mx.cpu))
