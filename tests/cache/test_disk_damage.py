"""Damage of every kind: a store never serves what was not put, and serves the rest."""

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cache.disks import (
    MIB,
    assert_served,
    chain,
    keys_of,
    open_store,
    payload_of,
    put_all,
    segments,
)
from vllm_mlx.cache.extents import read_superblock

CHAINS = [chain(name, 20) for name in range(6)]
BIG = chain("big", 4)
BIG_BYTES = 17_000  # several parts


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store of two segment files."""
    directory = tmp_path_factory.mktemp("pristine")
    store = open_store(directory)
    for links in CHAINS:
        put_all(store, links)
    put_all(store, BIG, BIG_BYTES)
    assert store.close()
    assert len(segments(directory)) >= 2
    return directory


def serve_all(directory: Path) -> int:
    """Twice, since damage that is found changes the store; returns how many were right."""
    store = open_store(directory)
    served = 0
    for _ in range(2):
        served = sum(assert_served(store, links) for links in CHAINS)
        served += assert_served(store, BIG, BIG_BYTES)
    for _ in CHAINS[0]:  # and it can be written again, however often it is found damaged
        put_all(store, CHAINS[0])
        store.flush(10)
        if assert_served(store, CHAINS[0]) == len(CHAINS[0]):
            break
    else:
        raise AssertionError("it stays damaged")
    store.close()
    return served


def test_undamaged_it_serves_everything(pristine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(pristine, tmp_path / "copy")
    assert serve_all(copy) == 6 * 20 + 4


@settings(max_examples=60)
@given(st.data())
def test_flipped_bits(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = shutil.copytree(pristine, tmp_path_factory.mktemp("flip") / "copy")
    path = data.draw(st.sampled_from(segments(copy)))
    content = bytearray(path.read_bytes())
    layout = read_superblock(path).layout
    regions = [len(content), layout.payloads_at, layout.headers_at]  # the small ones too
    for _ in range(data.draw(st.integers(1, 8))):
        offset = data.draw(st.integers(0, data.draw(st.sampled_from(regions)) - 1))
        content[offset] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    serve_all(copy)
    shutil.rmtree(copy)


@settings(max_examples=40)
@given(st.data())
def test_truncated_files(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    copy = shutil.copytree(pristine, tmp_path_factory.mktemp("cut") / "copy")
    path = data.draw(st.sampled_from(segments(copy)))
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(data.draw(st.integers(0, size - 1)))
    serve_all(copy)
    shutil.rmtree(copy)


@settings(max_examples=20)
@given(st.integers(0, 1 << 32))
def test_stretches_of_garbage_and_of_other_places(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Also whole pages that belong elsewhere: their checksums are right, their place is not."""
    source = random.Random(seed)
    copy = shutil.copytree(pristine, tmp_path_factory.mktemp("mix") / "copy")
    for path in segments(copy):
        content = bytearray(path.read_bytes())
        for _ in range(4):
            length = source.choice([512, 4096, 8192])
            to = source.randrange(0, len(content) - length, 512)
            origin = source.randrange(0, len(content) - length, 512)
            piece = content[origin : origin + length] if seed % 2 else source.randbytes(length)
            content[to : to + length] = piece
        path.write_bytes(content)
    serve_all(copy)
    shutil.rmtree(copy)


def test_a_damaged_payload_ends_its_chain_only(pristine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(pristine, tmp_path / "copy")
    victim = CHAINS[2][7][0]
    needle = payload_of(victim)[:64]
    for path in segments(copy):
        content = bytearray(path.read_bytes())
        if (at := content.find(needle)) >= 0:
            content[at + 3000] ^= 16
            path.write_bytes(content)
    store = open_store(copy)
    assert [assert_served(store, links) for links in CHAINS] == [20, 20, 7, 20, 20, 20]
    assert store.stats.damaged == 1
    assert store.match(keys_of(CHAINS[2])) == 7
    assert put_all(store, CHAINS[2]).count("taken") == 1
    assert store.flush(10)
    assert assert_served(store, CHAINS[2]) == 20
    store.close()


@pytest.mark.parametrize("name", ["000000.kv", "000007.kv", "junk.kv"])
def test_a_file_that_is_none_of_ours_is_in_nobodys_way(
    pristine: Path, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(pristine, tmp_path / "copy")
    segments(copy)[0].with_name(name).write_bytes(b"something else" * 1000)
    serve_all(copy)


def test_other_files_and_a_damaged_state_do_no_harm(pristine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(pristine, tmp_path / "copy")
    (copy / "state.json").write_bytes(b'{"day": 3')
    (copy / "state.json.new").write_bytes(b"torn")
    (copy / "notes").mkdir()
    (copy / "notes" / "mine.kv").write_text("not a tier's")
    assert serve_all(copy) == 6 * 20 + 4
    assert (copy / "notes" / "mine.kv").exists()


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    store = open_store(tmp_path, MIB, clock=lambda: 2e9)
    put_all(store, CHAINS[0])
    store.close()
    now = [1e9]
    store = open_store(tmp_path, MIB, clock=lambda: now[0])
    for number in range(40):
        now[0] += 1
        put_all(store, chain(number, 10))
        store.flush(10)
    assert store.match(keys_of(CHAINS[0])) == 0  # it does not stay for ever
    assert store.match(keys_of(chain(39, 10))) == 10
    store.close()


def test_a_place_that_is_being_rewritten_holds_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between payload and header: the older record there is not found damaged."""
    store = open_store(tmp_path, MIB // 2)
    put_all(store, chain("old", 200))  # as many as fit
    store.flush(10)
    before = store.stats.records
    monkeypatch.setattr(store._volume, "write_header", lambda *_: None)
    put_all(store, chain("new", 5))
    store.flush(10)
    store.close()
    monkeypatch.undo()
    again = open_store(tmp_path, MIB // 2)
    assert again.stats.records == assert_served(again, chain("old", 200)) == before - 5
    assert again.stats.damaged == 0
    again.close()
