"""`vllm-mlx cache stats|clear|verify` on directories with and without a server."""

from pathlib import Path

import pytest

from tests.cache.disks import assert_served, chain, open_store, put_all, segments
from vllm_mlx.commands import cache
from vllm_mlx.errors import ConfigError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for model, blocks in (("toy bf16", 5), ("other float32", 7)):
        store = open_store(tmp_path, fingerprint=model)
        put_all(store, chain(model, blocks))
        store.close()
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_stats_name_every_model(directory: Path) -> None:
    text = cache.stats(str(directory))
    assert "not in use" in text
    assert "written on" in text
    for words in ("toy bf16", "other float32", "2 x kv 1x64", "5 blocks", "7 blocks"):
        assert words in text


def test_stats_while_a_server_runs(directory: Path) -> None:
    store = open_store(directory)
    assert "in use by process" in cache.stats(str(directory))
    for verb in (cache.clear, cache.verify):
        with pytest.raises(ConfigError, match="in use by process"):
            verb(str(directory))
    assert assert_served(store, chain("toy bf16", 5)) == 5
    store.close()


def test_verify_finds_damage_and_changes_nothing(directory: Path) -> None:
    text, is_whole = cache.verify(str(directory))
    assert is_whole
    assert "everything is whole" in text
    path = segments(directory)[0]
    content = bytearray(path.read_bytes())
    content[-100 - 4096] ^= 1
    content[-100 - 4096 - 4096 : -4096 - 4096] = bytes(100)
    path.write_bytes(content)
    text, is_whole = cache.verify(str(directory))
    assert not is_whole
    assert "damaged: 1 payloads, 0 headers, 0 files" in text
    assert path.read_bytes() == content
    content[0] ^= 1
    path.write_bytes(content)
    assert "0 payloads, 0 headers, 1 files" in cache.verify(str(directory))[0]


def test_clear_removes_records_and_nothing_else(directory: Path) -> None:
    assert "MiB removed" in cache.clear(str(directory))
    assert sorted(path.name for path in directory.iterdir()) == ["lock", "notes.txt", "state.json"]
    assert "0.0 MiB" in cache.stats(str(directory))
    store = open_store(directory)
    assert store.stats.records == 0
    store.close()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for verb in (cache.stats, cache.clear, cache.verify):
        with pytest.raises(ConfigError, match="is not a directory"):
            verb(str(tmp_path / "none"))
