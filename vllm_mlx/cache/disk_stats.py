"""What the SSD tier says of itself."""

from msgspec import Struct

from vllm_mlx.cache.daily_writes import DailyWrites
from vllm_mlx.cache.disk_directory import ByteCap
from vllm_mlx.cache.disk_index import DiskIndex
from vllm_mlx.cache.disk_writer import DiskWriter
from vllm_mlx.cache.restore import ReadMeter
from vllm_mlx.cache.staging import StagingPool


class DiskStats(Struct, frozen=True):
    """Bytes on disk are those of whole files. Counters since start, but for ``written_today``."""

    records: int
    payload_bytes: int
    used_bytes: int  # of the whole directory
    budget_bytes: int
    other_models_bytes: int
    yielded_bytes: int  # of other models, removed because this one needed their room
    pending_bytes: int  # taken, not on disk yet
    staging_bytes: int
    written_records: int
    written_bytes: int
    written_today_bytes: int
    daily_limit_bytes: int | None
    evicted_records: int
    no_room: int
    queue_full: int
    daily_limit_hits: int
    failed_writes: int
    damaged: int  # headers at start and payloads since
    token_mismatches: int
    restored_bytes: int
    read_bytes_per_second: float | None
    writing_off: str | None  # why nothing is written any more


def stats_of(
    index: DiskIndex,
    cap: ByteCap,
    daily: DailyWrites,
    writer: DiskWriter,
    meter: ReadMeter,
    pool: StagingPool,
    *,
    damaged: int,
    token_mismatches: int,
) -> DiskStats:
    return DiskStats(
        records=len(index),
        payload_bytes=index.payload_bytes,
        used_bytes=cap.used_bytes,
        budget_bytes=cap.budget_bytes,
        other_models_bytes=cap.others_bytes,
        yielded_bytes=cap.yielded_bytes,
        pending_bytes=writer.pending_bytes,
        staging_bytes=pool.used_bytes,
        written_records=writer.counters.records,
        written_bytes=writer.counters.bytes,
        written_today_bytes=daily.written_bytes,
        daily_limit_bytes=daily.limit_bytes,
        evicted_records=writer.counters.evicted,
        no_room=writer.counters.no_room,
        queue_full=writer.counters.queue_full,
        daily_limit_hits=writer.counters.daily_limit,
        failed_writes=writer.counters.failed,
        damaged=damaged,
        token_mismatches=token_mismatches,
        restored_bytes=meter.total_bytes,
        read_bytes_per_second=meter.bytes_per_second,
        writing_off=writer.refusal,
    )
