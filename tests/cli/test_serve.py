"""The serving loop in a process of its own: signals, drain, start-up failures, ports."""

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("serve_fake.py")


@contextmanager
def straw(
    cwd: Path, port: int = 0, loading: str = "ready", request_seconds: float = 0.0
) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, str(FAKE), str(port), loading, str(request_seconds)]
    process = subprocess.Popen(
        words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def wait_for(process: subprocess.Popen[str], word: str) -> str:
    """The rest of the first line of stdout that begins with ``word``."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    assert process.stderr is not None
    pytest.fail(f"no line '{word}': {process.stderr.read()}")


def ask(url: str, answers: list[bytes]) -> threading.Thread:
    def get() -> None:
        for _ in range(200):  # bound, perhaps not listening yet
            try:
                with urllib.request.urlopen(url, timeout=20) as reply:
                    answers.append(reply.read())
                return
            except urllib.error.URLError:
                time.sleep(0.05)

    thread = threading.Thread(target=get)
    thread.start()
    return thread


def end(process: subprocess.Popen[str], sig: signal.Signals) -> tuple[str, str, int]:
    process.send_signal(sig)
    out, err = process.communicate(timeout=20)
    return out, err, process.returncode


def test_sigterm_lets_a_running_request_finish_and_cleans_up(tmp_path: Path) -> None:
    with straw(tmp_path, request_seconds=0.5) as process:
        answers: list[bytes] = []
        asking = ask(wait_for(process, "ready"), answers)
        wait_for(process, "request begins")
        out, err, code = end(process, signal.SIGTERM)
        asking.join(timeout=20)
    assert answers == [b"whole answer"]
    assert "cleaned up" in out
    assert code == -signal.SIGTERM
    assert err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_request_beyond_the_drain_is_ended_by_the_engine(tmp_path: Path) -> None:
    with straw(tmp_path, request_seconds=60.0) as process:
        answers: list[bytes] = []
        asking = ask(wait_for(process, "ready"), answers)
        wait_for(process, "request begins")
        began = time.monotonic()
        out, err, code = end(process, signal.SIGTERM)
        seconds = time.monotonic() - began
        asking.join(timeout=20)
    assert answers == [b"cut short"]
    assert 0.8 < seconds < 10  # drain_seconds is 1
    assert ("cleaned up" in out, err, code) == (True, "", -signal.SIGTERM)


def test_ctrl_c_ends_quietly_with_zero(tmp_path: Path) -> None:
    with straw(tmp_path) as process:
        wait_for(process, "ready")
        out, err, code = end(process, signal.SIGINT)
    assert ("cleaned up" in out, err, code) == (True, "", 0)


def test_ctrl_c_twice_does_not_wait_for_requests(tmp_path: Path) -> None:
    with straw(tmp_path, request_seconds=60.0) as process:
        host, port = wait_for(process, "ready").removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            wait_for(process, "request begins")
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            began = time.monotonic()
            _, err, code = end(process, signal.SIGINT)
            seconds = time.monotonic() - began
    assert seconds < 0.7  # drain_seconds is 1, and 0.2 of it are over
    assert (err, code) == ("", 130)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_loading_can_be_interrupted(tmp_path: Path, sig: signal.Signals) -> None:
    with straw(tmp_path, loading="hang") as process:
        url = wait_for(process, "bound")
        answers: list[bytes] = []
        ask(url, answers).join(timeout=20)  # served already: /health answers while loading
        out, err, code = end(process, sig)
    assert answers == [b"whole answer"]
    assert ("ready" in out, err, code) == (False, "", 128 + sig)


def test_a_model_that_cannot_load_is_one_line(tmp_path: Path) -> None:
    with straw(tmp_path, loading="fail") as process:
        _, err = process.communicate(timeout=20)
    assert err == "vllm-mlx: error: there is no such folder: /nowhere\n"
    assert process.returncode == 1


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with straw(tmp_path, port=port) as process:
            _, err = process.communicate(timeout=20)
    assert err == f"vllm-mlx: error: api.port: 127.0.0.1:{port}: Address already in use\n"
    assert process.returncode == 1
