"""Read-ahead: in order, bounded memory, and nobody waits for memory that others sit on."""

import threading
from pathlib import Path

import pytest

from tests.cache.disks import (
    MIB,
    assert_served,
    begin,
    chain,
    drain,
    keys_of,
    open_store,
    payload_of,
    put_all,
)
from vllm_mlx.cache.disk_reader import CHUNK_BYTES
from vllm_mlx.cache.disk_store import DiskStore
from vllm_mlx.cache.restore import ReadMeter, Restore
from vllm_mlx.cache.staging import StagingPool

BIG = CHUNK_BYTES // 4  # blocks of which a chunk holds four


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    store = open_store(
        tmp_path, 256 * MIB, block_bytes=BIG, segment_bytes=64 * MIB, staging_bytes=2 * CHUNK_BYTES
    )
    for name in ("a", "b"):
        for key, parent, tokens in chain(name, 20):
            assert store.put(key, parent, tokens, bytes(BIG - 16) + key) == "taken"
    assert store.flush(60)
    yield store
    store.close()


def ends(payloads: list[bytes]) -> list[bytes]:
    return [payload[-16:] for payload in payloads]


def test_chunks_come_in_order_through_little_memory(store: DiskStore) -> None:
    links = chain("a", 20)
    restore = begin(store, links)
    assert restore.num_chunks == 5
    seen: list[bytes] = []
    while not restore.is_done:
        chunk = restore.next(10)
        assert chunk is not None
        assert store.stats.staging_bytes <= 2 * CHUNK_BYTES
        seen += ends([bytes(payload) for payload in chunk.payloads])
        chunk.release()
        chunk.release()  # once is enough, twice does no harm
    assert seen == keys_of(links)
    assert not restore.is_cut
    assert store.stats.staging_bytes == 0


def test_what_is_not_taken_holds_back_the_rest(store: DiskStore) -> None:
    """Until its request is urgent: then memory is not the question."""
    idle, eager = begin(store, chain("a", 20)), begin(store, chain("b", 20))
    assert eager.next(0.2) is None
    assert store.stats.staging_bytes == 2 * CHUNK_BYTES
    store.hurry(eager)
    assert ends(drain(eager)) == keys_of(chain("b", 20))
    assert ends(drain(idle)) == keys_of(chain("a", 20))
    assert store.stats.staging_bytes == 0


def test_a_cancelled_request_gives_everything_back(store: DiskStore) -> None:
    idle, next_one = begin(store, chain("a", 20)), begin(store, chain("b", 20))
    first = idle.next(10)
    assert first is not None
    store.cancel(idle)
    assert idle.is_done
    assert idle.is_cut
    assert idle.next(1) is None
    assert ends(drain(next_one)) == keys_of(chain("b", 20))
    assert ends([bytes(payload) for payload in first.payloads]) == keys_of(chain("a", 4))
    first.release()
    assert store.stats.staging_bytes == 0
    assert all(record.pins == 0 for record in store._index._records.values())


def test_the_reader_tells_when_something_is_ready(store: DiskStore) -> None:
    told = threading.Event()
    links = chain("a", 1)
    restore = store.fetch(keys_of(links), [ids for _, _, ids in links], told.set)
    assert told.wait(10)
    assert restore.next() is not None


def test_a_failing_listener_ends_its_own_request_only(
    store: DiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    links = chain("a", 20)

    def fail() -> None:
        raise RuntimeError("listener")

    broken = store.fetch(keys_of(links), [ids for _, _, ids in links], fail)
    assert len(drain(broken)) < 20
    assert ends(drain(begin(store, chain("b", 20)))) == keys_of(chain("b", 20))
    assert "reading failed" in caplog.text


def test_closing_ends_requests(tmp_path: Path) -> None:
    store, links = open_store(tmp_path, 64 * MIB), chain("a", 50)
    put_all(store, links)
    store.flush(10)
    restores = [begin(store, links) for _ in range(20)]
    store.close()
    for restore in restores:
        assert restore.is_done or restore.next() is not None


def test_nothing_to_fetch_is_done_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    restore = begin(store, chain("a", 3))
    assert restore.num_keys == 0
    assert restore.is_done
    assert restore.next(1) is None
    store.close()


def test_being_read_protects_from_eviction(tmp_path: Path) -> None:
    """Only as long as it is being read."""
    store = open_store(tmp_path, MIB)
    links = chain("a", 20)
    put_all(store, links)
    store.flush(10)
    pinned = store._index.pin(keys_of(links))
    for number in range(30):
        put_all(store, chain(number, 10))
        store.flush(10)
    assert assert_served(store, links) == 20
    store._index.unpin(pinned)
    for number in range(30, 60):
        put_all(store, chain(number, 10))
        store.flush(10)
    assert store.match(keys_of(links)) == 0
    store.close()


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    pool = StagingPool(8192, 4096)
    first = pool.take(100, False)
    assert first is not None
    payload = first.view[:50].toreadonly()
    pool.give_back(first, [payload])
    again = pool.take(4096, False)
    assert again is first
    assert again.view.nbytes == 4096
    left = memoryview(again.view)[5:]  # somebody keeps this one
    pool.give_back(again, [])
    other = pool.take(1, False)
    assert other is not first
    assert left[0] == 0
    assert pool.used_bytes == 4096
    assert pool.take(5000, False) is None
    assert pool.take(5000, True) is not None


def test_the_meter_counts_time_and_not_samples() -> None:
    meter = ReadMeter(None)
    meter.begin()
    meter.end(1 << 20)
    first = meter.bytes_per_second
    assert first is not None
    meter.begin()
    threading.Event().wait(0.05)
    meter.end(64 << 20)
    assert meter.bytes_per_second is not None
    assert meter.bytes_per_second < max(first, (64 << 20) / 0.05)
    assert meter.total_bytes == 65 << 20


def test_a_restore_ends_at_the_first_chunk_that_is_not_whole() -> None:
    class FakeChunk:
        def __init__(self, payloads: list[bytes]) -> None:
            self.payloads, self.released = payloads, 0

        def release(self) -> None:
            self.released += 1

    restore = Restore(9, None)
    restore.num_chunks = 3
    last, middle, first = FakeChunk([b"c"]), FakeChunk([b"b"]), FakeChunk([b"a"])
    restore.deliver(2, last, True)  # type: ignore[arg-type]
    restore.deliver(1, middle, False)  # type: ignore[arg-type]
    assert last.released == 1
    assert not restore.is_done
    restore.deliver(0, first, True)  # type: ignore[arg-type]
    assert [restore.next(), restore.next(), restore.next()] == [first, middle, None]
    assert restore.is_done
    assert restore.is_cut
    assert payload_of(b"x", 3) == payload_of(b"x", 3)
