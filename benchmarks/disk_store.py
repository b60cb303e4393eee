"""The SSD tier's store against the plain disk: write, read and open, with dropped page cache.

    uv run python benchmarks/disk_store.py [--rounds 5] [--directory DIR] [--save disk_store]

Blocks have the size of the default model's (16 tokens, 30 layers of 3 x 64 keys and values in
bfloat16). A read round takes 1,500 tokens' worth of blocks from a store of many such prompts,
checksums included; a plain round reads as many bytes of one file in order. The two take turns, the
page cache of both files is dropped before each, and ratios are of neighbouring rounds.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

from common import interleave, median_ratio, save

from vllm_mlx.cache.disk_store import DiskStore

BLOCK_TOKENS = 16
BLOCK_BYTES = 30 * 3 * 64 * 2 * 2 * BLOCK_TOKENS
PROMPT_BLOCKS = 1500 // BLOCK_TOKENS
PLAIN_CHUNK = 4 << 20
GIB, MB = 1 << 30, 1e6


def open_store(directory: Path, block_bytes: int = BLOCK_BYTES) -> DiskStore:
    return DiskStore(
        directory,
        8 * GIB,
        "bench bf16",
        "30 x kv 3x64",
        block_tokens=BLOCK_TOKENS,
        block_bytes=block_bytes,
        queue_bytes=GIB,
    )


def chain(name: int, blocks: int) -> list[tuple[bytes, bytes]]:
    parent, links = b"", []
    for number in range(blocks):
        key = blake2b(parent + f"{name} {number}".encode(), digest_size=16).digest()
        links.append((key, parent))
        parent = key
    return links


def put_chain(store: DiskStore, name: int, blocks: int, payload: bytes) -> None:
    for key, parent in chain(name, blocks):
        result = store.put(key, parent, range(BLOCK_TOKENS), payload)
        if result != "taken":
            raise RuntimeError(result)


def drop(paths: list[Path]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def write_plain(path: Path, payload: bytes, blocks: int) -> float:
    """Bytes a second, durable at the end."""
    began = time.perf_counter()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for _ in range(blocks):
        os.write(file, payload)
    getattr(os, "fdatasync", os.fsync)(file)
    os.close(file)
    return blocks * len(payload) / (time.perf_counter() - began)


def read_plain(path: Path, num_bytes: int, at: int) -> float:
    """Bytes a second of one sequential reader into memory that is there already."""
    buffer = memoryview(bytearray(PLAIN_CHUNK))
    file = os.open(path, os.O_RDONLY)
    began, left = time.perf_counter(), num_bytes
    while left:
        read = os.preadv(file, [buffer[: min(left, PLAIN_CHUNK)]], at)
        at, left = at + read, left - read
    seconds = time.perf_counter() - began
    os.close(file)
    return num_bytes / seconds


def read_store(store: DiskStore, name: int) -> float:
    """Bytes a second from request to the last verified payload."""
    links = chain(name, PROMPT_BLOCKS)
    tokens = [range(BLOCK_TOKENS)] * len(links)
    began, blocks = time.perf_counter(), 0
    restore = store.fetch([key for key, _ in links], tokens)
    while not restore.is_done:
        chunk = restore.next(10)
        if chunk is None:
            raise RuntimeError("a chunk did not come")
        blocks += len(chunk.payloads)
        chunk.release()
    seconds = time.perf_counter() - began
    if blocks != len(links):
        raise RuntimeError(f"{blocks} of {len(links)} blocks")
    return blocks * BLOCK_BYTES / seconds


def bench_writes(folder: Path, rounds: int, payload: bytes) -> tuple[list[float], list[float]]:
    store = open_store(folder / "written")

    def ours(turn: int) -> float:
        began = time.perf_counter()
        put_chain(store, turn, 2 * PROMPT_BLOCKS, payload)
        if not store.flush(120):
            raise RuntimeError("the store did not become durable")
        return 2 * PROMPT_BLOCKS * BLOCK_BYTES / (time.perf_counter() - began)

    def theirs(turn: int) -> float:
        return write_plain(folder / f"plain{turn}", payload, 2 * PROMPT_BLOCKS)

    rates = interleave(rounds, ours, theirs)
    store.close()
    return rates


def bench_reads(folder: Path, rounds: int, payload: bytes) -> tuple[list[float], list[float]]:
    store = open_store(folder / "read")
    for name in range(rounds):
        put_chain(store, name, PROMPT_BLOCKS, payload)
        store.flush(120)
    plain = folder / "plain"
    prompt_bytes = PROMPT_BLOCKS * BLOCK_BYTES
    write_plain(plain, payload, rounds * PROMPT_BLOCKS)
    files = [plain, *(folder / "read").rglob("*.kv")]
    store.close()
    store = open_store(folder / "read")

    def ours(turn: int) -> float:
        drop(files)
        return read_store(store, turn)

    def theirs(turn: int) -> float:
        drop(files)
        return read_plain(plain, prompt_bytes, turn * prompt_bytes)

    ours(0)
    rates = interleave(rounds, ours, theirs)
    store.close()
    return rates


def bench_open(folder: Path, records: int) -> float:
    """Seconds to open a store of so many records, headers not in the page cache."""
    store = open_store(folder / "many", 4096)
    payload = random.randbytes(4096)
    for name in range(records // 100):
        put_chain(store, name, 100, payload)
    store.close(60)
    drop(list((folder / "many").rglob("*.kv")))
    began = time.perf_counter()
    store = open_store(folder / "many", 4096)
    seconds = time.perf_counter() - began
    if store.stats.records != records:
        raise RuntimeError(f"{store.stats.records} of {records} records")
    store.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--directory", default=None, help="on the disk to measure")
    parser.add_argument("--save", default=None)
    args = parser.parse_args()
    payload = random.randbytes(BLOCK_BYTES)
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        folder = Path(name)
        reads = bench_reads(folder, args.rounds, payload)
        writes = bench_writes(folder, args.rounds, payload)
        open_seconds = bench_open(folder, 10_000)
    result = {
        "block_bytes": BLOCK_BYTES,
        "prompt_blocks": PROMPT_BLOCKS,
        "read_per_plain": median_ratio(*reads),
        "read_mb_per_second": statistics.median(reads[0]) / MB,
        "plain_read_mb_per_second": statistics.median(reads[1]) / MB,
        "write_per_plain": median_ratio(*writes),
        "write_mb_per_second": statistics.median(writes[0]) / MB,
        "plain_write_mb_per_second": statistics.median(writes[1]) / MB,
        "open_10k_records_seconds": open_seconds,
    }
    for key, value in result.items():
        print(f"{key}: {value}")
    if args.save:
        save(args.save, result)


if __name__ == "__main__":
    main()
