"""The whole command in a process of its own, with the toy model: plan, answers, files, end."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SCRIPT = Path(sys.executable).with_name("vllm-mlx")


class Started(NamedTuple):
    process: subprocess.Popen[str]
    plan: str
    url: str
    folder: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("working")
    process = subprocess.Popen(
        [str(SCRIPT), "recipe=ci_smoke", "api.served_name=house"],
        cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Started(process, *read_plan(process), folder)
    finally:
        process.kill()
        process.communicate(timeout=20)


def read_plan(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"  URL +(http://\S+)$", line):
            return "".join(lines), found[1]
    assert process.stderr is not None
    pytest.fail(f"no plan: {process.stderr.read()}")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return json.load(reply)


def post(url: str, body: dict[str, Any]) -> Any:
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


def test_the_plan_says_what_runs(started: Started) -> None:
    rows = dict(re.findall(r"^  (\w+) +(.+)$", started.plan, re.MULTILINE))
    assert {"model", "mode", "backend", "dtype", "memory", "attention", "URL"} <= set(rows)
    assert rows["mode"].startswith("toy: ")
    assert "plain MLX" in rows["attention"]
    assert not rows["URL"].endswith(":0")


def test_it_answers(started: Started) -> None:
    assert get(f"{started.url}/ready")["ready"] is True
    names = {entry["id"] for entry in get(f"{started.url}/v1/models")["data"]}
    assert "house" in names
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    answer = post(f"{started.url}/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"]


def test_a_second_server_on_the_port_says_so_in_one_line(started: Started, tmp_path: Path) -> None:
    port = started.url.rsplit(":", 1)[1]
    second = subprocess.run(
        [str(SCRIPT), "model=toy", f"api.port={port}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert second.stderr == (
        f"vllm-mlx: error: api.port: 127.0.0.1:{port}: Address already in use\n"
    )


def test_it_ends_by_the_signal_and_leaves_no_file(started: Started) -> None:
    """The last test: it takes the server down."""
    started.process.send_signal(signal.SIGTERM)
    _, err = started.process.communicate(timeout=30)
    assert started.process.returncode == -signal.SIGTERM
    assert "Traceback" not in err
    assert list(started.folder.iterdir()) == []
