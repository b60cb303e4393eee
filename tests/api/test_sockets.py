"""The application under real uvicorn: official SDKs, raw sockets, a client that hangs up."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import uvicorn

from tests.asgi_driver import settings
from tests.fakes import FakeEngine, by_choice, say
from vllm_mlx.api.app import create_app

NO_RETRY = {"max_retries": 0, "timeout": 10.0}


@dataclass
class Served:
    url: str
    port: int
    engine: FakeEngine


@contextmanager
def served(engine: FakeEngine, **more: object) -> Iterator[Served]:
    config = uvicorn.Config(
        create_app(engine, settings(**more)),
        log_config=None,
        access_log=False,
        http="httptools",
        ws="none",
        lifespan="on",
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: server.run([listener]), daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    wait_until(lambda: engine.state == "ready")
    try:
        yield Served(f"http://127.0.0.1:{port}", port, engine)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with (
        served(FakeEngine(by_choice(say("one ", "two"), say("three")))) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", **NO_RETRY) as sdk,  # type: ignore[arg-type]
    ):
        yield sdk


HI = [{"role": "user", "content": "Hi"}]


def test_python_sdk_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=HI, n=2)  # type: ignore[call-overload]
    assert [choice.message.content for choice in answer.choices] == ["one two", "three"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    scored = client.chat.completions.create(  # type: ignore[call-overload]
        model="default", messages=HI, logprobs=True, top_logprobs=3
    )
    assert len(scored.choices[0].logprobs.content[0].top_logprobs) == 3


def test_python_sdk_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="default", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 7
    with client.chat.completions.stream(model="default", messages=HI) as events:  # type: ignore[arg-type]
        final = [event for event in events if event.type == "content.done"]
    assert final[0].content == "one two"


def test_python_sdk_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="default", prompt=["a", "b"], logprobs=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["aone two", "bone two"]
    chunks = list(client.completions.create(model="default", prompt=[97, 98], stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "one two"


def test_python_sdk_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake/bytes", "bytes", "default"]
    assert client.models.retrieve("fake/bytes").id == "fake/bytes"


def test_python_sdk_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="default", messages=HI, temperature=3)  # type: ignore[call-overload]
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=HI)  # type: ignore[call-overload]
    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id


def test_python_sdk_errors_of_the_server() -> None:
    with (
        served(FakeEngine(queue_limit=0), api_key="right") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="right", **NO_RETRY) as sdk,  # type: ignore[arg-type]
    ):
        with pytest.raises(openai.RateLimitError):
            sdk.chat.completions.create(model="default", messages=HI)  # type: ignore[call-overload]
        with pytest.raises(openai.AuthenticationError):
            sdk.with_options(api_key="wrong").models.list()
        server.engine.state = "draining"
        with pytest.raises(openai.InternalServerError) as stopping:
            sdk.chat.completions.create(model="default", messages=HI)  # type: ignore[call-overload]
        assert stopping.value.status_code == 503
        server.engine.state = "ready"


def request_bytes(**fields: object) -> bytes:
    body = json.dumps({"messages": HI, **fields}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_stops_the_work(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    with served(FakeEngine()) as server:
        line = socket.create_connection(("127.0.0.1", server.port))
        line.sendall(request_bytes(stream=stream))
        wait_until(lambda: len(server.engine.live) == 1)
        line.close()
        wait_until(lambda: server.engine.live == [], seconds=2)
        assert server.engine.streams[0].aborts
    assert not [r for r in caplog.records if r.levelname == "ERROR"], caplog.text


def test_one_connection_many_requests() -> None:
    """The watcher of one request must not disturb the next on the same connection."""
    with served(FakeEngine(say("ab"))) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            for i in range(20):
                line.sendall(request_bytes(stream=i % 2 == 0))
                got, end = b"", b"[DONE]\n\n\r\n0\r\n\r\n" if i % 2 == 0 else b"}}}"
                while not got.endswith(end):
                    piece = line.recv(65536)
                    assert piece, got
                    got += piece
                assert got.startswith(b"HTTP/1.1 200")
        assert len(server.engine.streams) == 20
        assert all(s.aborts == 0 for s in server.engine.streams), "none was taken for abandoned"


def test_upload_beyond_the_limit_without_a_length() -> None:
    with (
        served(FakeEngine(say("x")), max_body_mib=0.1) as server,
        socket.create_connection(("127.0.0.1", server.port)) as line,
    ):
        line.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        piece = b"x" * 50_000
        for _ in range(3):
            line.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 413")


JS = """
import OpenAI from 'openai';
const client = new OpenAI({baseURL: process.argv[2] + '/v1', apiKey: 'none', maxRetries: 0});
const messages = [{role: 'user', content: 'Hi'}];
const out = {};
const whole = await client.chat.completions.create({model: 'default', messages, n: 2});
out.whole = whole.choices.map(c => c.message.content);
const stream = await client.chat.completions.create(
  {model: 'default', messages, stream: true, stream_options: {include_usage: true}});
out.streamed = ''; out.usage = null;
for await (const chunk of stream) {
  out.streamed += chunk.choices[0]?.delta?.content ?? '';
  out.usage = chunk.usage?.completion_tokens ?? out.usage;
}
const runner = client.chat.completions.stream({model: 'default', messages});
out.final = await runner.finalContent();
out.completion = (await client.completions.create({model: 'default', prompt: 'a'})).choices[0].text;
out.models = (await client.models.list()).data.map(m => m.id);
try { await client.chat.completions.create({model: 'nope', messages}); }
catch (e) { out.error = [e.constructor.name, e.status, e.code]; }
try { await client.chat.completions.create({model: 'default', messages, top_p: 0}); }
catch (e) { out.bad = [e.constructor.name, e.param]; }
console.log(JSON.stringify(out));
"""


@pytest.fixture(scope="session")
def js_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JS SDK in it; skips where there is no node or no registry."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("js")
    (folder / "package.json").write_text('{"type": "module"}')
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai@6"]
    done = subprocess.run(install, cwd=folder, capture_output=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip("the openai package could not be installed from npm")
    (folder / "talk.mjs").write_text(JS)
    return folder


@pytest.mark.slow
def test_js_sdk(js_folder: Path) -> None:
    with served(FakeEngine(by_choice(say("one ", "two"), say("three")))) as server:
        done = subprocess.run(
            ["node", "talk.mjs", server.url],
            cwd=js_folder,
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "whole": ["one two", "three"],
        "streamed": "one two",
        "usage": 7,
        "final": "one two",
        "completion": "one two",
        "models": ["fake/bytes", "bytes", "default"],
        "error": ["NotFoundError", 404, "model_not_found"],
        "bad": ["BadRequestError", "top_p"],
    }
