"""From the headers that lie on a disk to the records that can be served."""

from collections.abc import Iterable

from vllm_mlx.cache.disk_index import Record
from vllm_mlx.cache.volume import Found


def records_of(found: Iterable[Found], now_ms: int) -> tuple[list[Record], list[int]]:
    """Whole records, parents in no particular order, and the extents that belong to none.

    Of two records with one key the one that was written last stays. A last use that lies in the
    future (a clock was set back, a torn write) counts as now.
    """
    groups: dict[tuple[bytes, int], list[Found]] = {}
    for item in found:
        groups.setdefault((item.header.key, item.header.serial), []).append(item)
    records: dict[bytes, Record] = {}
    unused: list[int] = []
    for group in groups.values():
        group.sort(key=lambda item: item.header.part)
        record = _record_of(group, now_ms)
        older = records.get(record.key) if record is not None else None
        if record is None or (older is not None and older.serial > record.serial):
            unused += [item.extent for item in group]
            continue
        if older is not None:
            unused += older.extents
        records[record.key] = record
    return list(records.values()), unused


def _record_of(group: list[Found], now_ms: int) -> Record | None:
    """None where a part is missing, or the parts do not agree."""
    first = group[0].header
    sizes = {(item.header.parts, item.header.record_bytes) for item in group}
    numbers = [item.header.part for item in group]
    part_bytes = sum(item.header.part_bytes for item in group)
    if len(sizes) != 1 or numbers != list(range(first.parts)) or part_bytes != first.record_bytes:
        return None
    used_ms = max(first.written_ms, *(item.used_ms for item in group))
    return Record(
        first.key,
        first.parent,
        first.token_ids,
        tuple(item.extent for item in group),
        first.record_bytes,
        tuple(item.header.checksum for item in group),
        first.serial,
        min(used_ms, now_ms),
    )
