"""Converted folders survive damage, crashes and company."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.model.gguf_files import TinyGguf
from vllm_mlx.errors import ModelError
from vllm_mlx.model import cache_folder
from vllm_mlx.model.cache_folder import MANIFEST, cache_root, is_whole, open_or_write
from vllm_mlx.model.gguf import convert_gguf, converted_folder


class Conversions:
    """Converts one file and counts how often that was really done."""

    def __init__(self, tmp_path: Path) -> None:
        self.gguf, self.root, self.count = tmp_path / "tiny.gguf", tmp_path / "cache", 0
        TinyGguf("llama").write(self.gguf)

    def convert(self) -> Path:
        return convert_gguf(self.gguf, root=self.root, progress=self._count)

    def _count(self, stage: str, done: int, total: int) -> None:
        self.count += done == total


@pytest.fixture
def conversions(tmp_path: Path) -> Conversions:
    return Conversions(tmp_path)


def test_the_second_time_is_free(conversions: Conversions) -> None:
    first = conversions.convert()
    assert conversions.convert() == first
    assert conversions.count == 1
    assert is_whole(first)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_byte_is_found_and_mended(conversions: Conversions, name: str) -> None:
    folder = conversions.convert()
    path, before = folder / name, (folder / name).read_bytes()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(before[:-2] + b"?" + before[-1:])
    os.utime(path, ns=(stamp, stamp))  # as a bad sector would: same size, same time
    assert not is_whole(folder)
    conversions.convert()
    assert path.read_bytes() == before
    assert conversions.count == 2


def test_missing_files_and_manifests_are_mended(conversions: Conversions) -> None:
    folder = conversions.convert()
    for name in ("tokenizer.json", MANIFEST):
        (folder / name).unlink()
        conversions.convert()
        assert is_whole(folder)
    (folder / MANIFEST).write_text("{ torn")
    conversions.convert()
    assert is_whole(folder)
    assert conversions.count == 4


def test_big_folders_are_hashed_only_if_touched(
    conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conversions.convert()
    monkeypatch.setattr(cache_folder, "HASHED_BYTES", 0)
    hashed: list[Path] = []
    real = cache_folder.file_sha256
    monkeypatch.setattr(cache_folder, "file_sha256", lambda p: hashed.append(p) or real(p))
    assert is_whole(folder)
    assert hashed == []
    os.utime(folder / "config.json")
    assert is_whole(folder)
    assert [path.name for path in hashed] == ["config.json"]


def test_an_older_converters_work_is_made_again(conversions: Conversions) -> None:
    folder = conversions.convert()
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["converter_version"] = 0
    (folder / MANIFEST).write_text(json.dumps(manifest))
    conversions.convert()
    assert conversions.count == 2


def test_a_moved_source_is_recognised_and_a_changed_one_is_not(conversions: Conversions) -> None:
    first = conversions.convert()
    moved = conversions.gguf.parent / "elsewhere"
    moved.mkdir()
    conversions.gguf = conversions.gguf.rename(moved / "tiny.gguf")
    assert conversions.convert() == first
    assert conversions.count == 1
    data = bytearray(conversions.gguf.read_bytes())
    data[-40] ^= 1
    conversions.gguf.write_bytes(data)
    assert conversions.convert() != first
    assert conversions.count == 2


def test_what_a_killed_writer_left_is_removed(conversions: Conversions) -> None:
    folder = converted_folder(conversions.gguf, conversions.root)
    left = conversions.root / f".{folder.name}.4242.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    conversions.convert()
    assert not left.exists()
    assert is_whole(folder)


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"half")
        raise ModelError("no good")

    with pytest.raises(ModelError, match="no good"):
        open_or_write(tmp_path / "made", lambda manifest: True, write)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]


def test_an_unwritable_cache_is_one_clear_sentence(conversions: Conversions) -> None:
    conversions.root.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="VLLM_MLX_CACHE"):
        conversions.convert()


CONVERT = """
import sys
from pathlib import Path
from vllm_mlx.model.gguf import convert_gguf
ends = []
folder = convert_gguf(
    Path(sys.argv[1]), root=Path(sys.argv[2]), progress=lambda s, d, t: ends.append(d == t)
)
print(folder, sum(ends))
"""


def test_two_processes_make_one_conversion(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    TinyGguf("llama").write(gguf)
    command = [sys.executable, "-c", CONVERT, str(gguf), str(tmp_path / "cache")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len({folder for folder, _ in answers}) == 1
    assert sorted(count for _, count in answers) == ["0", "1"]
    assert is_whole(Path(answers[0][0]))


def test_threads_wait_for_each_other(conversions: Conversions) -> None:
    threads = [threading.Thread(target=conversions.convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conversions.count == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VLLM_MLX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "vllm-mlx" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_root() == Path("/home/somebody/.cache/vllm-mlx/models")
    monkeypatch.setenv("VLLM_MLX_CACHE", "~/here")
    assert cache_root() == Path("/home/somebody/here")
