"""A directory of the SSD tier looked at from outside, without a model: count, check, empty."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from vllm_mlx.cache.disk_directory import (
    STATE_NAME,
    DirectoryLock,
    folders,
    holder,
    load_state,
    segment_paths,
)
from vllm_mlx.cache.disk_index import Record
from vllm_mlx.cache.disk_scan import records_of
from vllm_mlx.cache.extents import DamagedError, decode_header, payload_checksum
from vllm_mlx.cache.segment_file import SegmentFile, aligned_buffer
from vllm_mlx.cache.volume import SLOT_BITS, Found
from vllm_mlx.errors import ConfigError

FAR_FUTURE_MS = 1 << 62


class FolderReport(Struct):
    """What one model in one format has in the directory."""

    name: str
    words: str = ""  # model, adapter, KV format, layers
    files: int = 0
    file_bytes: int = 0
    records: int = 0
    payload_bytes: int = 0
    last_used_ms: int = 0
    damaged_files: int = 0
    damaged_headers: int = 0
    damaged_records: int = 0  # counted by ``verify_directory`` only

    @property
    def is_whole(self) -> bool:
        return not (self.damaged_files or self.damaged_headers or self.damaged_records)


class DirectoryReport(Struct):
    folders: list[FolderReport]
    used_by: str | None  # process
    written_today_bytes: int
    day: str

    @property
    def is_whole(self) -> bool:
        return all(folder.is_whole for folder in self.folders)


def stats_directory(directory: str | Path) -> DirectoryReport:
    """Reads headers only, also while a server uses the directory. Raises ConfigError, OSError."""
    path = _existing(directory)
    state = load_state(path)
    reports = [_read_folder(folder, None)[0] for folder in folders(path)]
    return DirectoryReport(reports, holder(path), state.written_bytes, state.day)


def verify_directory(directory: str | Path) -> DirectoryReport:
    """Reads every byte and changes nothing. Raises ConfigError where a server uses the directory,
    OSError."""
    path = _existing(directory)
    with _locked(path):
        state = load_state(path)
        reports = [_read_folder(folder, _count_damaged)[0] for folder in folders(path)]
        return DirectoryReport(reports, None, state.written_bytes, state.day)


def clear_directory(directory: str | Path) -> int:
    """Remove the records of every model; returns their bytes. What else lies there stays, and so
    does the count of today's writes.

    Raises ConfigError where a server uses the directory, OSError.
    """
    path = _existing(directory)
    removed = 0
    with _locked(path):
        for folder in folders(path):
            for segment in segment_paths(folder):
                removed += segment.stat().st_size
                segment.unlink()
            with contextlib.suppress(OSError):  # somebody put something else there
                folder.rmdir()
        (path / f"{STATE_NAME}.new").unlink(missing_ok=True)
    return removed


Check = Callable[[list[Record], dict[int, SegmentFile]], int]


def _read_folder(folder: Path, check: Check | None) -> tuple[FolderReport, list[Record]]:
    report = FolderReport(folder.name)
    found: list[Found] = []
    segments: dict[int, SegmentFile] = {}
    for path in segment_paths(folder):
        report.files += 1
        report.file_bytes += path.stat().st_size
        try:
            segment = SegmentFile.open(path, read_only=True)
        except DamagedError:
            report.damaged_files += 1
            continue
        segments[segment.number] = segment
        report.words = segment.superblock.words
        found += _headers(segment, report)
    records, _ = records_of(found, FAR_FUTURE_MS)
    report.records = len(records)
    report.payload_bytes = sum(record.payload_bytes for record in records)
    report.last_used_ms = max((record.used_ms for record in records), default=0)
    if check is not None:
        report.damaged_records = check(records, segments)
    return report, records


def _headers(segment: SegmentFile, report: FolderReport) -> Iterator[Found]:
    used = segment.recency()
    for slot, data in segment.headers():
        try:
            header = decode_header(data, segment.superblock.fingerprint)
            if slot >= segment.grown:
                raise DamagedError("the file ends before the payload")
        except DamagedError:
            report.damaged_headers += 1
            continue
        yield Found(segment.number << SLOT_BITS | slot, header, used[slot])


def _count_damaged(records: list[Record], segments: dict[int, SegmentFile]) -> int:
    return sum(not _is_whole(record, segments) for record in records)


def _is_whole(record: Record, segments: dict[int, SegmentFile]) -> bool:
    left = record.payload_bytes
    for part, extent in enumerate(record.extents):
        segment = segments[extent >> SLOT_BITS]
        slot = aligned_buffer(segment.layout.payload_bytes)
        try:
            segment.read_payloads(extent & ((1 << SLOT_BITS) - 1), [slot], direct=True)
        except (DamagedError, OSError):
            return False
        data = slot[: min(left, len(slot))]
        left -= len(data)
        if payload_checksum(data, record.key, record.serial, part) != record.checksums[part]:
            return False
    return True


def _existing(directory: str | Path) -> Path:
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory")
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = DirectoryLock(path)
    lock.take()
    try:
        yield
    finally:
        lock.release()
