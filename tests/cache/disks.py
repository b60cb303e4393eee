"""Small stores on disk, and payloads that follow from their keys."""

import random
from hashlib import blake2b
from pathlib import Path
from typing import Any

from vllm_mlx.cache.disk_store import DiskStore
from vllm_mlx.cache.restore import Restore

BLOCK_TOKENS = 4
BLOCK_BYTES = 5000  # not a whole number of pages
MODEL, LAYERS = "toy bf16", "2 x kv 1x64"
MIB = 1 << 20

Chain = list[tuple[bytes, bytes, tuple[int, ...]]]  # key, parent, tokens


def open_store(directory: Path | str, budget_bytes: int = 4 * MIB, **changes: Any) -> DiskStore:
    values: dict[str, Any] = {
        "fingerprint": MODEL,
        "layer_signature": LAYERS,
        "block_tokens": BLOCK_TOKENS,
        "block_bytes": BLOCK_BYTES,
        "segment_bytes": MIB,
        **changes,
    }
    return DiskStore(directory, budget_bytes, **values)


def chain(name: str | int, blocks: int, after: Chain | None = None) -> Chain:
    """Chained keys as the prefix index makes them; ``after`` is the chain that they go on from."""
    links: Chain = []
    parent = after[-1][0] if after else b""
    for number in range(blocks):
        source = random.Random(f"{name} {number}")
        tokens = tuple(source.randrange(1 << 31) for _ in range(BLOCK_TOKENS))
        data = b"".join(token.to_bytes(4, "little") for token in tokens)
        key = blake2b(parent + data, digest_size=16).digest()
        links.append((key, parent, tokens))
        parent = key
    return links


def payload_of(key: bytes, size: int = BLOCK_BYTES) -> bytes:
    """Looks random, and is known from the key."""
    return random.Random(key).randbytes(size)


def keys_of(links: Chain) -> list[bytes]:
    return [key for key, _, _ in links]


def put_all(store: DiskStore, links: Chain, size: int = BLOCK_BYTES) -> list[str]:
    return [store.put(key, parent, ids, payload_of(key, size)) for key, parent, ids in links]


def begin(store: DiskStore, links: Chain) -> Restore:
    return store.fetch(keys_of(links), [ids for _, _, ids in links])


def drain(restore: Restore, timeout_seconds: float = 10.0) -> list[bytes]:
    """Copies of everything that comes."""
    payloads = []
    while not restore.is_done:
        chunk = restore.next(timeout_seconds)
        if chunk is None:
            assert restore.is_done, "nothing came"
            break
        payloads += [bytes(payload) for payload in chunk.payloads]
        chunk.release()
    return payloads


def fetch_all(store: DiskStore, links: Chain) -> list[bytes]:
    return drain(begin(store, links))


def assert_served(store: DiskStore, links: Chain, size: int = BLOCK_BYTES) -> int:
    """Whatever is served is right; returns how many blocks were."""
    served = fetch_all(store, links)
    for (key, _, _), payload in zip(links, served, strict=False):
        assert payload == payload_of(key, size)
    return len(served)


def files_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def segments(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.kv"))
