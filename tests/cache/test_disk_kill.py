"""kill -9 at any moment: nothing torn is served, what was flushed is there, the cap holds."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cache.disks import MIB, assert_served, chain, files_bytes, open_store, put_all
from vllm_mlx.errors import ConfigError

ROOT = Path(__file__).parents[2]
ROUNDS = 20
PER_ROUND = 10_000  # numbers of one life


def start_victim(directory: Path, first: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cache.disk_victim", str(directory), str(first)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(victim: subprocess.Popen[str], after_seconds: float) -> list[int]:
    """Wait until it writes, and so long more; returns what it said was durable."""
    assert victim.stdout is not None
    assert victim.stdout.readline() == "open\n"
    time.sleep(after_seconds)
    victim.send_signal(signal.SIGKILL)
    said = victim.stdout.read().split("\n")
    victim.wait()
    victim.stdout.close()
    return [int(line) for line in said[:-1]]  # the last line may be torn


def size_of(number: int) -> int:
    return 5000 if number % 3 else 9000


def test_killed_at_any_moment(tmp_path: Path) -> None:
    source = random.Random(7)
    lives: list[int] = []
    for turn in range(ROUNDS):
        flushed = kill(start_victim(tmp_path, turn * PER_ROUND), source.uniform(0, 0.25))
        lives.append(max(flushed, default=turn * PER_ROUND))
        assert files_bytes(tmp_path) <= 2 * MIB
        store = open_store(tmp_path, 2 * MIB)  # the lock died with it
        assert store.stats.damaged <= 1, "one torn record at most, none by the page cache"
        for number in flushed[-1:]:
            assert assert_served(store, chain(number, 6), size_of(number)) == 6
        for last in lives:
            for number in range(max(0, last - 12), last + 12):
                assert_served(store, chain(number, 6), size_of(number))
        assert store.stats.damaged <= 1
        store.close()
    assert len({last % PER_ROUND for last in lives}) > 3, "it never got anywhere"


def test_a_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    victim = start_victim(tmp_path, 0)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "open\n"
    try:
        with pytest.raises(ConfigError, match=f"in use by process {victim.pid}"):
            open_store(tmp_path)
    finally:
        kill_now(victim)
    open_store(tmp_path).close()


def kill_now(victim: subprocess.Popen[str]) -> None:
    victim.kill()
    assert victim.stdout is not None
    victim.stdout.close()
    victim.wait()


FULL_DISK = """
import resource, sys
from tests.cache.disks import *
store = open_store(sys.argv[1], 64 * MIB, segment_bytes=16 * MIB)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
links = chain("a", 600)
put_all(store, links)
assert not store.flush(10)
assert store.stats.writing_off, "writing goes on"
before = store.stats.records
assert before >= 20, before
assert put_all(store, chain("b", 1)) == ["off"] and store.wants([b"0" * 16]) == []
assert assert_served(store, links) == before
assert not store.close()
print("served", before)
"""


def test_a_disk_that_refuses_ends_writing_and_reading_goes_on(tmp_path: Path) -> None:
    """A limit on the size of a file stands for a full disk: both fail in the middle of a write."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(2 * MIB + 1234)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "no more writes" in done.stderr
    served = int(done.stdout.split()[1])
    store = open_store(tmp_path, 64 * MIB, segment_bytes=16 * MIB)
    assert assert_served(store, chain("a", 600)) == served
    store.close()


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/proc/mounts").exists(), reason="needs to mount a file system"
)
def test_a_full_file_system(tmp_path: Path) -> None:
    """Also one without direct reads."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        store = open_store(tmp_path, 64 * MIB)
        links = chain("a", 300)
        for link in links:
            key, parent, tokens = link
            store.put(key, parent, tokens, os.urandom(5000))
        assert not store.flush(10)
        assert "No space left" in (store.stats.writing_off or "")
        kept = store.stats.records
        assert kept > 20
        store.clear()  # makes room, and writing is on again
        put_all(store, links[:10])
        assert store.flush(10)
        assert assert_served(store, links) == 10
        store.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
