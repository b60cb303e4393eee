"""The command, the default model, real HTTP: what the README's first command starts."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "Name a primary color.": "",
    "What do cows drink?": "",
    "Count from one to five.": "",
}


class Served:
    def __init__(self, process: subprocess.Popen[str], port: int, printed: str) -> None:
        self.process, self.port, self.printed = process, port, printed
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.loads(reply.read())

    def wait_until_idle(self) -> None:
        for _ in range(200):
            engine = self.get("/v1/status")["engine"]
            if engine["running"] == engine["waiting"] == 0:
                return
            time.sleep(0.05)
        pytest.fail("something still runs")


def start(cwd: Path, *overrides: str) -> Served:
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_mlx", "api.port=0", *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if found := re.search(r"URL\s+http://127\.0\.0\.1:(\d+)", line):
            return Served(process, int(found[1]), printed)
    assert process.stderr is not None
    pytest.fail(f"did not start: {process.stderr.read()}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    cwd = tmp_path_factory.mktemp("cwd")
    server = start(cwd)
    yield server
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=60)
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert list(cwd.iterdir()) == []  # a run leaves no file behind


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_the_plan_says_what_runs(served: Served) -> None:
    for word in ("SmolLM2", "token rows", "float32", "KV pool", "attention", "BLAS"):
        assert word in served.printed


def test_it_knows_the_capital_of_france(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=24,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_many_at_once_say_what_each_says_alone(served: Served) -> None:
    async def ask(sdk: AsyncOpenAI, question: str, stream: bool) -> str:
        body: dict[str, Any] = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 16,
        }
        if not stream:
            whole = await sdk.chat.completions.create(**body)
            return whole.choices[0].message.content or ""
        pieces = await sdk.chat.completions.create(**body, stream=True)
        return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
            alone = [await ask(sdk, question, False) for question in QUESTIONS]
            crowd = await asyncio.gather(
                *(ask(sdk, q, i % 2 == 0) for i in range(4) for q in QUESTIONS)
            )
        assert crowd == alone * 4

    asyncio.run(run())


def test_a_repeated_prompt_is_not_computed_again(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "word " * 100}]
    used = [
        client.chat.completions.create(model="default", messages=messages, max_tokens=1).usage
        for _ in range(2)
    ]
    details = [u.prompt_tokens_details.cached_tokens for u in used]  # type: ignore[union-attr]
    assert details[0] < 48  # at most the template's beginning, from other tests
    assert details[1] >= 96


def test_a_client_that_hangs_up_stops_its_work(served: Served) -> None:
    for stream in (True, False):
        asked = {"prompt": "Once", "max_tokens": 4000, "stream": stream, "ignore_eos": True}
        body = json.dumps(asked)
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            for _ in range(100):
                if served.get("/v1/status")["engine"]["running"]:
                    break
                time.sleep(0.05)
            else:
                pytest.fail("it never ran")
        served.wait_until_idle()


def test_one_bad_request_leaves_the_others_alone(client: OpenAI, served: Served) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model="default", prompt="x " * 9000, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    assert "8192" in str(caught.value)
    assert served.get("/health")["status"] == "ok"


def test_a_running_answer_may_finish_at_shutdown(tmp_path: Path) -> None:
    server = start(tmp_path, "api.drain_seconds=60")
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        pieces = sdk.completions.create(
            model="default",
            prompt="The sea",
            max_tokens=12,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(pieces))
        server.process.send_signal(signal.SIGTERM)
        reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons[-1] == "length"
    server.process.communicate(timeout=60)
