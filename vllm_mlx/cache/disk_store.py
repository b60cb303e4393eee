"""``DiskStore``: blocks by key on an SSD, for one model in one format. Bytes in, bytes out; no MLX.

What belongs to a prefix but is no block (a checkpoint of layers that cannot be sliced) is a record
like any other: with a key of its own, and the key of the block it goes with as its parent.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_mlx.cache.daily_writes import DailyWrites
from vllm_mlx.cache.disk_directory import (
    SIDECAR_BYTES,
    ByteCap,
    DirectoryLock,
    make_private_folder,
)
from vllm_mlx.cache.disk_index import DiskIndex, Record
from vllm_mlx.cache.disk_reader import CHUNK_BYTES, DiskReader, Source
from vllm_mlx.cache.disk_scan import records_of
from vllm_mlx.cache.disk_stats import DiskStats, stats_of
from vllm_mlx.cache.disk_writer import DiskWriter, PutResult, WritePolicy
from vllm_mlx.cache.extents import (
    KEY_BYTES,
    NO_PARENT,
    fingerprint_of,
    pack_tokens,
    plan_layout,
)
from vllm_mlx.cache.restore import ReadMeter, Restore
from vllm_mlx.cache.staging import StagingPool
from vllm_mlx.cache.volume import Volume
from vllm_mlx.errors import ConfigError

SEGMENT_BYTES = 256 << 20
STAGING_BYTES = 256 << 20
QUEUE_BYTES = 256 << 20
GIB = 1 << 30

logger = logging.getLogger(__name__)


class DiskStore:
    """The SSD tier's records. Every method may be called from any thread; ``match``, ``wants``,
    ``put``, ``fetch`` and ``stats`` never wait for the disk."""

    def __init__(
        self,
        directory: str | Path,
        budget_bytes: int,
        fingerprint: str,
        layer_signature: str,
        *,
        block_tokens: int,
        block_bytes: int,
        write_policy: WritePolicy = "first_sight",
        daily_write_bytes: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
        staging_bytes: int = STAGING_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        direct: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``fingerprint`` says model, adapter and KV format, ``layer_signature`` what each layer
        stores; records are found again only where both are the same. ``budget_bytes`` bounds all
        files in the directory together.

        Raises ConfigError: the directory is in use, not writable, or the budget too small.
        """
        self._directory = Path(directory)
        digest = fingerprint_of(fingerprint, layer_signature, block_tokens, block_bytes)
        segment_bytes = min(segment_bytes, budget_bytes // 8)
        layout = plan_layout(block_bytes, block_tokens, segment_bytes)
        least = SIDECAR_BYTES + layout.file_bytes(1)
        if budget_bytes < least:
            raise ConfigError(
                f"{budget_bytes / GIB:.4f} GiB hold not one block of this model, which takes"
                f" {least / GIB:.4f} GiB",
                "cache.budget_gib",
            )
        make_private_folder(self._directory)
        self._dir_lock = DirectoryLock(self._directory)
        self._dir_lock.take()
        self._clock = clock
        folder = self._directory / digest.hex()
        self._cap = ByteCap(self._directory, folder, budget_bytes)
        self._daily = DailyWrites(self._directory, daily_write_bytes, clock)
        words = f"{fingerprint}\n{block_tokens} tokens a block\n{layer_signature}"
        self._volume = Volume(folder, layout, digest, words, self._cap)
        self._index = DiskIndex(self._volume.free, clock)
        try:
            serial = self._load()
        except OSError as error:
            self._dir_lock.release()
            raise ConfigError(f"{folder}: {error}", "cache.directory") from error
        self._writer = DiskWriter(
            self._volume, self._index, self._daily, serial, queue_bytes, write_policy
        )
        self._pool = StagingPool(staging_bytes, CHUNK_BYTES)
        meter = ReadMeter(self._daily.state.read_bytes_per_second)
        self._reader = DiskReader(
            self._volume, self._pool, meter, self._discard, self._index.unpin, direct=direct
        )
        self._count_lock = threading.Lock()
        self._damaged_payloads = self._token_mismatches = 0
        self._is_closed = False
        self._writer.start()
        self._reader.start()

    # -- what is there

    def match(self, keys: Sequence[bytes]) -> int:
        """How many leading keys can be fetched. Counts as a use of them."""
        count = 0
        for key in keys:
            if key not in self._index and self._writer.pending(key) is None:
                break
            count += 1
        self._index.touch(keys[:count])
        return count

    def fetch(
        self,
        keys: Sequence[bytes],
        token_ids: Sequence[Sequence[int]],
        on_ready: Callable[[], None] | None = None,
    ) -> Restore:
        """Begin to read the leading keys that are present: see ``Restore``.

        ``token_ids`` are those that each record must hold; where one holds others, it is not
        served and dropped. ``on_ready`` runs on a reader thread after every chunk.
        """
        sources: list[Source] = []
        for key, tokens in zip(keys, token_ids, strict=True):
            source = self._source(key, pack_tokens(tokens))
            if source is None:
                break
            sources.append(source)
        self._index.touch(keys[: len(sources)])
        return self._reader.request(sources, on_ready)

    def hurry(self, restore: Restore) -> None:
        """Read this before everything else, staging memory or not."""
        self._reader.hurry(restore)

    def cancel(self, restore: Restore) -> None:
        """The rest is not wanted."""
        self._reader.cancel(restore)

    def restore_seconds(self, num_bytes: int) -> float | None:
        """How long fetching so many bytes would take now, what others wait for included.

        None where this machine was never measured; one ``fetch`` changes that.
        """
        rate = self._reader.meter.bytes_per_second
        return None if rate is None else (num_bytes + self._reader.waiting_bytes) / rate

    # -- writing

    def wants(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys to ``put`` now: not there, and due by the write policy.

        Ask once a request for each of its full blocks: ``second_sight`` counts the asking.
        """
        return self._writer.wants(keys)

    def put(
        self,
        key: bytes,
        parent: bytes,
        token_ids: Sequence[int],
        payload: bytes | memoryview,
    ) -> PutResult:
        """Take a record to be written; ``taken`` or the reason why not. Never waits.

        ``parent`` is ``b""`` for the first block of a prompt, else a key that is there or was
        taken before. The payload is kept until it is written and must not change.
        """
        if len(key) != KEY_BYTES or len(parent) not in (0, KEY_BYTES):
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)} and {len(parent)}")
        return self._writer.put(key, parent or NO_PARENT, pack_tokens(token_ids), payload)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all that was taken is durable; False where it is not."""
        return self._writer.flush(timeout_seconds)

    def remove(self, keys: Sequence[bytes]) -> int:
        """Records of these keys are never served again; returns how many there were. Waits."""
        with self._writer.disk_lock:
            records = [record for key in keys if (record := self._index.get(key)) is not None]
            for record in records:
                self._volume.wipe(record.extents)
                self._index.drop(record)
        return len(records)

    def clear(self) -> None:
        """Every record of this model goes, queued ones included. Waits for the disk.

        Writing is on again if a full disk had ended it. Raises OSError.
        """
        with self._writer.disk_lock:
            self._writer.forget()
            self._index.clear()
            self._volume.clear()
        self._writer.resume()

    # -- ends

    def close(self, flush_seconds: float = 10.0) -> bool:
        """Write what is queued, if that takes no longer; False where something was lost.

        Requests that are still being read end where they are. A second call does nothing.
        """
        if self._is_closed:
            return True
        self._is_closed = True
        self._reader.close()
        flushed = self._writer.close(flush_seconds)
        self._daily.state.read_bytes_per_second = self._reader.meter.bytes_per_second
        try:
            self._daily.save()
        except OSError as error:
            logger.warning("SSD tier: the day's writes were not saved: %s", str(error))
        self._volume.close()
        self._dir_lock.release()
        return flushed

    @property
    def stats(self) -> DiskStats:
        return stats_of(
            self._index,
            self._cap,
            self._daily,
            self._writer,
            self._reader.meter,
            self._pool,
            damaged=self._volume.damaged_headers + self._damaged_payloads,
            token_mismatches=self._token_mismatches,
        )

    # -- inside

    def _load(self) -> int:
        """Fill the index; returns the first serial that was never used. Raises OSError."""
        found = self._volume.open()
        records, unused = records_of(found, int(self._clock() * 1000))
        for record in records:
            self._index.add(record)
        self._index.take_touched()  # it comes from there
        self._volume.free(unused)
        serials = (item.header.serial for item in found)
        # beyond what a torn header may have held as well
        return max([time.time_ns(), *(serial + 1 for serial in serials)])

    def _source(self, key: bytes, token_ids: bytes) -> Source | None:
        pending = self._writer.pending(key)
        if pending is not None and pending.token_ids == token_ids:
            return pending.payload
        for record in self._index.pin([key]):
            if record.token_ids == token_ids:
                return record
            self._index.unpin([record])
            with self._count_lock:
                self._token_mismatches += 1
            logger.error("SSD tier: a record holds other tokens than its key says; dropped")
            self._index.drop(record)
        return None

    def _discard(self, record: Record, error: Exception) -> None:
        """On a reader thread, the record pinned."""
        if self._index.get(record.key) is not record:  # the cache was cleared meanwhile
            return
        with self._count_lock:
            self._damaged_payloads += 1
        logger.warning("SSD tier: a block is not served: %s", str(error))
        try:
            self._volume.wipe(record.extents)
        except OSError as refused:
            logger.warning("SSD tier: its header stays on disk: %s", str(refused))
        self._index.drop(record)
