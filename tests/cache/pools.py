"""Small caches, opened."""

from typing import TypeVar

from vllm_mlx.cache.none import NoCache

Cache = TypeVar("Cache", bound=NoCache)
KV_BYTES_PER_TOKEN = 1024


def gib_for(tokens: int) -> float:
    """Memory that holds exactly so many tokens (at least 256)."""
    return tokens * KV_BYTES_PER_TOKEN / (1 << 30)


def open_cache(kind: type[Cache], tokens: int = 256, block_tokens: int = 16) -> Cache:
    cache = kind(block_tokens, gib_for(tokens))
    assert cache.open(0, KV_BYTES_PER_TOKEN, 1 << 20) == tokens // block_tokens + 1
    return cache
