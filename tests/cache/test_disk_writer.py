"""Write-behind: the queue is bounded and nobody waits; policies and the day's limit."""

import threading
import time
from pathlib import Path

import pytest

from tests.cache.disks import (
    BLOCK_BYTES,
    MIB,
    assert_served,
    chain,
    fetch_all,
    keys_of,
    open_store,
    payload_of,
    put_all,
)
from vllm_mlx.cache.daily_writes import STEP_BYTES, DailyWrites
from vllm_mlx.cache.disk_directory import load_state
from vllm_mlx.cache.disk_store import DiskStore

DAY = 86_400.0


def block_disk(store: DiskStore) -> threading.Lock:
    """A disk that hangs until the lock is released."""
    lock = store._writer.disk_lock
    lock.acquire()
    return lock


def test_put_never_waits_and_says_when_the_queue_is_full(tmp_path: Path) -> None:
    store = open_store(tmp_path, queue_bytes=10 * BLOCK_BYTES + 1)
    hanging = block_disk(store)
    links = chain("a", 12)
    began = time.monotonic()
    assert put_all(store, links) == ["taken"] * 10 + ["queue_full", "orphan"]
    assert time.monotonic() - began < 1
    assert store.stats.pending_bytes == 10 * BLOCK_BYTES
    assert store.stats.queue_full == 1
    assert store.match(keys_of(links)) == 10  # served from the queue
    assert assert_served(store, links) == 10
    assert not store.flush(0.05)
    hanging.release()
    assert store.flush(10)
    assert store.stats.pending_bytes == 0
    assert put_all(store, links)[-2:] == ["taken", "taken"]
    store.close()


def test_a_payload_beyond_the_queue_is_too_large(tmp_path: Path) -> None:
    store = open_store(tmp_path, queue_bytes=1000)
    key, parent, tokens = chain("a", 1)[0]
    assert store.put(key, parent, tokens, payload_of(key)) == "too_large"
    assert store.put(key, parent, tokens, b"") == "too_large"
    assert store.put(key, parent, tokens, b"x") == "taken"
    store.close()


def test_second_sight_writes_what_is_asked_for_twice(tmp_path: Path) -> None:
    store, links = open_store(tmp_path, write_policy="second_sight"), chain("a", 4)
    keys = keys_of(links)
    assert store.wants(keys[:3]) == []
    assert store.wants(keys) == [0, 1, 2]
    put_all(store, links[:3])
    assert store.wants(keys) == [3]
    store.close()


def test_first_sight_writes_what_is_missing(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 4)
    put_all(store, links[:2])
    assert store.wants(keys_of(links)) == [2, 3]
    store.flush(10)
    assert store.wants(keys_of(links)) == [2, 3]
    store.close()


def test_the_days_limit_holds_over_restarts(tmp_path: Path) -> None:
    now = [1e9]
    limit = 10 * 8712  # what ten extents take
    changes = {"daily_write_bytes": limit, "clock": lambda: now[0]}
    store = open_store(tmp_path, **changes)
    links = chain("a", 30)
    assert put_all(store, links[:11]) == ["taken"] * 10 + ["daily_limit"]
    assert store.flush(10)
    assert store.stats.written_bytes == store.stats.written_today_bytes == limit
    assert store.stats.daily_limit_hits == 1
    store.close()
    store = open_store(tmp_path, **changes)
    assert put_all(store, links[10:11]) == ["daily_limit"]
    assert assert_served(store, links) == 10
    now[0] += DAY
    assert put_all(store, links[10:11]) == ["taken"]
    store.close()
    assert load_state(tmp_path).written_bytes == 8712


def test_a_crash_never_makes_the_days_budget_larger(tmp_path: Path) -> None:
    daily = DailyWrites(tmp_path, 10 * STEP_BYTES, lambda: 1e9)
    assert daily.take(1000)
    daily.reserve()
    after_crash = DailyWrites(tmp_path, 10 * STEP_BYTES, lambda: 1e9)
    assert 1000 <= after_crash.written_bytes <= 1000 + STEP_BYTES
    daily.save()
    assert DailyWrites(tmp_path, 10 * STEP_BYTES, lambda: 1e9).written_bytes == 1000
    assert not daily.take(10 * STEP_BYTES - 999)
    assert daily.take(10 * STEP_BYTES - 1000)


def test_what_was_not_written_is_not_counted(tmp_path: Path) -> None:
    store = open_store(tmp_path, MIB // 2)
    links = chain("a", 200)
    put_all(store, links)
    store.flush(10)
    assert store.stats.no_room > 0
    assert store.stats.written_today_bytes == store.stats.written_bytes
    store.close()


def test_everything_is_durable_soon_after_the_last_put(tmp_path: Path) -> None:
    """Without a flush: the idle writer sees to it."""
    store = open_store(tmp_path)
    put_all(store, chain("a", 20))
    deadline = time.monotonic() + 10  # the disk of a test may be slow
    while (store._writer._pending or store._writer._is_dirty) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not store._writer._pending
    assert not store._writer._is_dirty
    store.close()


def test_close_writes_what_is_queued(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 40)
    put_all(store, links)
    assert store.close()
    assert store.close()
    again = open_store(tmp_path)
    assert len(fetch_all(again, links)) == 40
    again.close()


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.close()
    assert put_all(store, chain("a", 1)) == ["off"]


@pytest.mark.parametrize("key", [b"", b"short", bytes(17)])
def test_keys_have_one_length(tmp_path: Path, key: bytes) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="a key has 16 bytes"):
        store.put(key, b"", (1,), b"x")
    store.close()


def test_an_unexpected_failure_ends_writing_and_not_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    put_all(store, chain("a", 2))
    store.flush(10)

    def fail(*_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(store._volume, "write_payload", fail)
    put_all(store, chain("b", 2))
    assert not store.flush(10)
    assert "surprise" in (store.stats.writing_off or "")
    assert "no more writes" in caplog.text
    monkeypatch.undo()
    assert assert_served(store, chain("a", 2)) == 2
    store.clear()
    assert put_all(store, chain("a", 2)) == ["taken"] * 2
    assert store.flush(10)
    store.close()


def test_a_disk_that_cannot_sync_is_not_asked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store._volume, "sync", fail)
    put_all(store, chain("a", 2))
    assert not store.flush(10)
    time.sleep(0.2)
    assert len(calls) <= 3
    assert "Input/output error" in (store.stats.writing_off or "")
    assert not store.close(1)
