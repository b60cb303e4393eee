"""The SSD tier's store: what is put comes back, from the queue, from disk and after a restart."""

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.cache.disks import (
    BLOCK_BYTES,
    MIB,
    assert_served,
    begin,
    chain,
    drain,
    fetch_all,
    files_bytes,
    keys_of,
    open_store,
    payload_of,
    put_all,
    segments,
)
from vllm_mlx.cache.disk_directory import load_state
from vllm_mlx.errors import ConfigError


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 5)
    assert put_all(store, links) == ["taken"] * 5
    assert store.match(keys_of(links)) == 5  # written or not
    assert assert_served(store, links) == 5
    assert store.flush(10)
    assert assert_served(store, links) == 5
    assert store.stats.records == 5
    assert store.stats.payload_bytes == 5 * BLOCK_BYTES
    assert store.close()


def test_it_comes_back_after_a_restart(tmp_path: Path) -> None:
    links = chain("a", 300)  # more than a segment
    store = open_store(tmp_path)
    put_all(store, links)
    assert store.close()
    again = open_store(tmp_path)
    assert again.match(keys_of(links)) == 300
    assert assert_served(again, links) == 300
    assert again.stats.damaged == 0
    again.close()


def test_only_leading_blocks_match(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 4)
    put_all(store, links)
    assert store.match(keys_of(links[1:])) == 3
    assert store.match(keys_of(chain("b", 1) + links)) == 0
    assert store.match([*keys_of(links), *keys_of(chain("b", 1))]) == 4
    assert len(fetch_all(store, links[:2] + chain("b", 1))) == 2
    store.close()


def test_a_block_whose_parent_is_unknown_is_not_taken(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 3)
    key, parent, tokens = links[1]
    assert store.put(key, parent, tokens, payload_of(key)) == "orphan"
    assert put_all(store, links) == ["taken"] * 3
    assert put_all(store, links) == ["known"] * 3
    store.close()


def test_a_payload_larger_than_a_slot_takes_several(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 3)
    put_all(store, links[:2])
    key, parent, tokens = links[2]
    big = payload_of(key, 5 * BLOCK_BYTES + 17)
    assert store.put(key, parent, tokens, big) == "taken"
    store.close()
    again = open_store(tmp_path)
    assert fetch_all(again, links)[2] == big
    assert again.stats.records == 3
    again.close()


def test_other_tokens_than_the_record_holds_are_not_served(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 3)
    put_all(store, links)
    store.flush(10)
    wrong = [ids for _, _, ids in links]
    wrong[1] = (1, 2, 3, 4)
    assert len(drain(store.fetch(keys_of(links), wrong))) == 1
    assert store.stats.token_mismatches == 1
    assert store.match(keys_of(links)) == 1  # and it is dropped
    store.close()


def test_another_model_or_format_shares_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    links = chain("a", 3)
    store = open_store(tmp_path)
    put_all(store, links)
    store.close()
    others = [
        {"fingerprint": "toy float32"},
        {"layer_signature": "3 x kv 1x64"},
        {"block_tokens": 8},
        {"block_bytes": BLOCK_BYTES + 1},
    ]
    for change in others:
        other = open_store(tmp_path, **change)
        assert other.match(keys_of(links)) == 0
        assert put_all(other, chain("b", 2), 100) == ["taken"] * 2
        other.close()
    again = open_store(tmp_path)
    assert assert_served(again, links) == 3
    assert again.stats.other_models_bytes > 0
    again.close()


def test_the_cap_is_one_for_all_models(tmp_path: Path) -> None:
    budget = 2 * MIB
    first = open_store(tmp_path, budget)
    put_all(first, chain("a", 400))
    first.close()
    second = open_store(tmp_path, budget, fingerprint="another")
    for number in range(40):
        put_all(second, chain(number, 5))
    assert second.flush(10)
    assert second.stats.yielded_bytes > 0
    assert second.match(keys_of(chain(39, 5))) == 5
    assert files_bytes(tmp_path) <= budget
    assert second.stats.used_bytes <= budget
    second.close()


@pytest.mark.parametrize("budget", [MIB // 2, MIB, 3 * MIB])
def test_the_cap_holds_and_the_least_used_goes_first(tmp_path: Path, budget: int) -> None:
    now = [1e9]
    store = open_store(tmp_path, budget, clock=lambda: now[0])
    hot = chain("hot", 5)
    put_all(store, hot)
    for number in range(60):
        now[0] += 1
        assert store.match(keys_of(hot)) == 5
        put_all(store, chain(number, 10))
        assert store.flush(10)
        assert files_bytes(tmp_path) <= store.stats.used_bytes <= budget
    assert store.stats.evicted_records > 0
    assert assert_served(store, chain(59, 10)) == 10
    assert store.match(keys_of(chain(0, 10))) == 0
    store.close()


def test_a_chain_longer_than_the_cap_keeps_its_beginning(tmp_path: Path) -> None:
    store, links = open_store(tmp_path, MIB // 2), chain("a", 200)
    put_all(store, links)
    store.flush(10)
    kept = store.match(keys_of(links))
    assert 10 < kept == store.stats.records
    assert store.stats.no_room == 200 - kept
    store.close()


def test_recency_outlives_the_process(tmp_path: Path) -> None:
    now = [1e9]
    old, new = chain("old", 20), chain("new", 20)
    store = open_store(tmp_path, MIB, clock=lambda: now[0])
    for links in (old, new):
        now[0] += 1
        put_all(store, links)
        store.flush(10)
    now[0] += 1
    assert store.match(keys_of(old)) == 20  # used after new was written
    store.close()
    now[0] += 1
    store = open_store(tmp_path, MIB, clock=lambda: now[0])
    number = 0
    while store.match(keys_of(old)) + len(keys_of(new)) == 40 and number < 100:
        put_all(store, chain(number, 5))
        store.flush(10)
        if store.stats.evicted_records:
            break
        number += 1
    assert store.stats.evicted_records > 0
    assert not store._index.get(new[-1][0])
    assert store._index.get(old[-1][0])
    store.close()


def test_a_smaller_budget_shrinks_what_is_there(tmp_path: Path) -> None:
    store = open_store(tmp_path, 8 * MIB)
    for number in range(50):
        put_all(store, chain(number, 20))
    store.close()
    assert files_bytes(tmp_path) > 4 * MIB
    store = open_store(tmp_path, 4 * MIB)
    assert files_bytes(tmp_path) <= 4 * MIB
    assert store.stats.records > 100
    assert sum(assert_served(store, chain(number, 20)) for number in range(50)) > 100
    store.close()


def test_a_budget_without_room_for_a_block_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache\.budget_gib"):
        open_store(tmp_path, 20_000)


def test_two_stores_on_one_directory(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()}"):
        open_store(tmp_path, fingerprint="another")
    store.close()
    open_store(tmp_path).close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(tmp_path / "new" / "tier")
        put_all(store, chain("a", 3))
        store.close()
    finally:
        os.umask(before)
    paths = [tmp_path / "new" / "tier", *(tmp_path / "new" / "tier").rglob("*")]
    assert len(paths) >= 5
    for path in paths:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cache\.directory"):
        open_store(tmp_path / "file")


def test_clear_forgets_everything(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 5)
    put_all(store, links)
    store.flush(10)
    put_all(store, chain("b", 50))  # some of it still queued
    store.clear()
    assert store.match(keys_of(links)) == store.match(keys_of(chain("b", 1))) == 0
    assert segments(tmp_path) == []
    assert put_all(store, links) == ["taken"] * 5
    store.flush(10)
    assert assert_served(store, links) == 5
    store.close()
    again = open_store(tmp_path)
    assert again.stats.records == 5
    again.close()


def test_clear_while_it_is_written_and_read(tmp_path: Path) -> None:
    store = open_store(tmp_path, 64 * MIB)
    links = chain("a", 500)
    for _ in range(5):
        put_all(store, links)
        restore = begin(store, links)
        store.clear()
        assert_all = drain(restore)
        for (key, _, _), payload in zip(links, assert_all, strict=False):
            assert payload == payload_of(key)
    assert store.flush(10)
    assert store.stats.records == 0
    assert store.stats.writing_off is None
    store.close()


def test_remove_one_prefix(tmp_path: Path) -> None:
    store, links, rest = open_store(tmp_path), chain("a", 5), chain("b", 2)
    put_all(store, links + rest)
    store.flush(10)
    assert store.remove(keys_of(links)[2:]) == 3
    assert store.match(keys_of(links)) == 2
    store.close()
    again = open_store(tmp_path)
    assert again.match(keys_of(links)) == 2
    assert again.stats.records == 4
    again.close()


def test_the_read_rate_is_measured_and_kept(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 50)
    assert store.restore_seconds(MIB) is None
    put_all(store, links)
    store.flush(10)
    fetch_all(store, links)
    seconds = store.restore_seconds(MIB)
    assert seconds is not None
    assert 0 < seconds < 10
    store.close()
    assert load_state(tmp_path).read_bytes_per_second is not None
    again = open_store(tmp_path)
    assert again.restore_seconds(MIB) == pytest.approx(seconds)
    again.close()


def test_arrays_made_of_a_payload_survive_its_release(tmp_path: Path) -> None:
    """Memory that is still looked at is not read into again."""
    store, links = open_store(tmp_path, 64 * MIB), chain("a", 2)
    put_all(store, links)
    store.flush(10)
    chunk = begin(store, links).next(10)
    assert chunk is not None
    array = np.frombuffer(chunk.payloads[0], dtype=np.uint8)
    chunk.release()
    more = chain("b", 100)
    put_all(store, more)
    store.flush(10)
    assert assert_served(store, more) == 100
    assert array.tobytes() == payload_of(links[0][0])
    assert store.stats.staging_bytes == 0
    store.close()


def test_a_released_payload_cannot_be_read(tmp_path: Path) -> None:
    store, links = open_store(tmp_path), chain("a", 1)
    put_all(store, links)
    store.flush(10)
    chunk = begin(store, links).next(10)
    assert chunk is not None
    payload = chunk.payloads[0]
    chunk.release()
    with pytest.raises(ValueError, match="released"):
        payload.tobytes()
    store.close()


def test_many_threads_at_once(tmp_path: Path) -> None:
    """Puts, fetches and evictions together serve nothing wrong and pin nothing for good."""
    store = open_store(tmp_path, MIB)
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for turn in range(25):
                links = chain(f"{name} {turn % 7}", 6)
                put_all(store, links)
                assert_served(store, links)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.flush(10)
    assert store.stats.damaged == store.stats.staging_bytes == 0
    assert all(record.pins == 0 for record in store._index._records.values())
    assert files_bytes(tmp_path) <= MIB
    store.close()
