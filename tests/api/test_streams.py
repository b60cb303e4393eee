"""Streams in time: keep-alive, clients that leave, limits, cancelling by id, draining."""

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.asgi_driver import Call, chat_body, serving
from tests.fakes import FakeEngine, FakeStream, say, until
from vllm_mlx.api.disconnect import CancelOnDisconnect
from vllm_mlx.api.exchange import KEY, Exchange
from vllm_mlx.core.delta import TextDelta
from vllm_mlx.errors import EngineStopped

pytestmark = pytest.mark.anyio


async def wait_for_stream(engine: FakeEngine, count: int = 1) -> FakeStream:
    await until(lambda: len(engine.streams) >= count)
    return engine.streams[-1]


async def test_keep_alive_before_and_between_tokens() -> None:
    engine = FakeEngine()
    async with serving(engine, keepalive_seconds=0.05) as client:
        call = client.begin_chat(stream=True)
        stream = await wait_for_stream(engine)
        await call.written(": keep-alive\n\n")
        assert call.reply.status == 200, "the line is open before the first token"
        stream.feed(TextDelta("a", (97,)))
        await call.written('"content":"a"')
        after = call.reply.body.index(b'"content":"a"')
        await until(lambda: b": keep-alive\n\n" in call.reply.body[after:])
        stream.finish()
        reply = await call.whole()
    assert reply.data[-1] == "[DONE]"
    for frame in reply.body.decode().split("\n\n")[:-1]:
        assert frame == ": keep-alive" or frame.startswith("data: "), "comments never cut a frame"


async def test_no_keep_alive_while_tokens_come() -> None:
    many = say(*"abcdefghijklmnopqrstuvwxyz", seconds=0.05)  # longer than the silence in all
    async with serving(FakeEngine(many), keepalive_seconds=1.0) as client:
        reply = await client.chat(stream=True)
    assert b"keep-alive" not in reply.body
    assert len(reply.writes) >= 20


async def test_failure_after_the_line_was_opened_is_a_frame() -> None:
    engine = FakeEngine()
    async with serving(engine, keepalive_seconds=0.03) as client:
        call = client.begin_chat(stream=True)
        stream = await wait_for_stream(engine)
        await call.written(": keep-alive")
        stream.feed(EngineStopped("The server is stopping."))
        reply = await call.whole()
    assert reply.status == 200
    assert reply.chunks[-1]["error"]["code"] == "model_not_ready"
    assert reply.data[-1] == "[DONE]"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_stops_the_work(stream: bool, begun: bool, n: int) -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        idle_tasks = len(asyncio.all_tasks())
        call = client.begin_chat(stream=stream, n=n)
        await wait_for_stream(engine, n)
        if begun:
            engine.streams[0].feed(TextDelta("a", (97,)))
            if stream:
                await call.written('"content":"a"')
            else:
                await asyncio.sleep(0.01)
        assert len(engine.live) == n
        call.leave()
        await call.whole(2.0)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == idle_tasks
        assert engine.live == []
        assert all(given.aborts for given in engine.streams)
        status = (await client.get("/v1/status")).json
        assert status["requests"] == []
        assert (await client.get("/health")).status == 200


async def test_a_client_that_leaves_while_it_uploads() -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        call = Call(client.app, "POST", "/v1/chat/completions", [b'{"messages":', b""])
        call._pieces = [b'{"messages":']  # then nothing but the disconnect

        async def receive() -> dict[str, Any]:
            if call._pieces:
                return {"type": "http.request", "body": call._pieces.pop(), "more_body": True}
            return {"type": "http.disconnect"}

        call._receive = receive  # type: ignore[method-assign]
        await call.whole(2.0)
    assert engine.streams == []


async def test_many_leave_and_nothing_is_left() -> None:
    engine = FakeEngine(say(*"abcdefghij", seconds=0.01))
    async with serving(engine) as client:
        calls = [client.begin_chat(stream=i % 2 == 0) for i in range(20)]
        await until(lambda: len(engine.streams) == 20)
        for call in calls[::2] + calls[1:10:2]:
            call.leave()
        replies = [await call.whole() for call in calls]
        assert engine.live == []
        assert sum(reply.complete for reply in replies) == 5
        assert (await client.get("/v1/status")).json["requests"] == []


async def test_time_limit() -> None:
    engine = FakeEngine()
    async with serving(engine, request_timeout_seconds=0.08) as client:
        whole = await client.chat()
        call = client.begin_chat(stream=True)
        stream = await wait_for_stream(engine, 2)
        stream.feed(TextDelta("a", (97,)))
        streamed = await call.whole(2.0)
        early = await client.chat(stream=True)
        assert engine.live == []
    assert (whole.status, whole.error["code"]) == (504, "request_timeout")
    assert (early.status, early.error["code"]) == (504, "request_timeout")
    assert streamed.status == 200
    assert streamed.chunks[-1]["error"]["code"] == "request_timeout"
    assert streamed.data[-1] == "[DONE]"


async def test_time_limit_of_the_request_can_only_shorten() -> None:
    engine = FakeEngine(say("a", "b", seconds=0.05))
    async with serving(engine, request_timeout_seconds=5.0) as client:
        assert (await client.chat(timeout=0.03)).status == 504
        assert (await client.chat(timeout=60)).status == 200
        assert (await client.chat(timeout=60, n=2)).status == 200
    async with serving(FakeEngine(), request_timeout_seconds=0.05) as client:
        assert (await client.chat(timeout=60, n=2)).status == 504


@pytest.mark.parametrize(("method", "suffix"), [("DELETE", ""), ("POST", ""), ("POST", "/cancel")])
async def test_cancel_by_the_id_the_client_sees(method: str, suffix: str) -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        call = client.begin_chat(stream=True)
        stream = await wait_for_stream(engine)
        stream.feed(TextDelta("a", (97,)))
        await call.written('"content":"a"')
        id = call.reply.chunks[0]["id"]
        (running,) = (await client.get("/v1/status")).json["requests"]
        assert running["id"] == id
        assert (running["completion_tokens"], running["choices"]) == (1, 1)
        cancelled = await client.get(f"/v1/requests/{id}{suffix}", method=method)
        reply = await call.whole(2.0)
        again = await client.get(f"/v1/requests/{id}{suffix}", method=method)
        engine.state = "draining"
        assert (await client.get("/v1/status")).json["model"] == "fake/bytes"
        assert 'model_name="fake/bytes"' in (await client.get("/metrics")).body.decode()
    assert (cancelled.status, cancelled.json["aborted"]) == (200, True)
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "abort"
    assert reply.data[-1] == "[DONE]"
    assert stream.ended
    assert (again.status, again.error["code"]) == (404, "request_not_found")


async def test_cancelled_whole_answer_has_what_there_was() -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        call = client.begin_chat()
        stream = await wait_for_stream(engine)
        stream.feed(TextDelta("some", (1, 2, 3, 4)))
        await asyncio.sleep(0.01)
        (running,) = (await client.get("/v1/status")).json["requests"]
        await client.get(f"/v1/requests/{running['id']}", method="DELETE")
        reply = await call.whole(2.0)
    (choice,) = reply.json["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("some", "abort")


async def test_stopping_drains_what_runs() -> None:
    engine = FakeEngine(say(*"abcd", seconds=0.02))
    async with serving(engine, drain_seconds=2.0) as client:
        call = client.begin_chat(stream=True)
        await wait_for_stream(engine)
    reply = await call.whole()
    assert engine.stopped_with == 2.0
    assert engine.state == "stopped"
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_access_line_and_request_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vllm_mlx.access")
    async with serving(FakeEngine(say("ab"))) as client:
        given = await client.post(
            "/v1/completions", {"prompt": "x"}, headers={"x-request-id": "mine-1"}
        )
        forged = await client.get("/version", headers={"x-request-id": "a b\r\nc"})
        await client.get("/health")
    assert given.headers["x-request-id"] == "mine-1"
    assert forged.headers["x-request-id"].startswith("req-")
    lines = [r.getMessage() for r in caplog.records if r.name == "vllm_mlx.access"]
    assert len(lines) == 2, "health checks are not worth a line"
    assert lines[0].startswith("mine-1 POST /v1/completions 200 answer=cmpl-")
    for part in ("prompt_tokens=2", "completion_tokens=2", "finish=stop", "total_ms="):
        assert part in lines[0]


async def test_metrics_count_what_happened() -> None:
    engine = FakeEngine(say("a", "b", "c"))
    async with serving(engine) as client:
        await client.chat(stream=True)
        await client.complete(max_tokens=1)
        await client.chat(n=2)
        text = (await client.get("/metrics")).body.decode()

    def value(line: str) -> float:
        (found,) = [row for row in text.splitlines() if row.startswith(line + " ")]
        return float(found.rsplit(" ", 1)[1])

    name = 'model_name="fake/bytes"'
    assert value(f"vllm:time_to_first_token_seconds_count{{{name}}}") == 3
    assert value(f"vllm:inter_token_latency_seconds_count{{{name}}}") == 2 + 0 + 2 + 2
    assert value(f"vllm:e2e_request_latency_seconds_count{{{name}}}") == 3
    stop = f'vllm:request_success_total{{finished_reason="stop",{name}}}'
    assert value(stop) == 3
    assert value(stop.replace('"stop"', '"length"')) == 1
    assert value(f"vllm:generation_tokens_total{{{name}}}") == 3 + 1 + 6
    assert value(f"vllm:prompt_tokens_total{{{name}}}") == engine.prompt_tokens
    assert value(f"vllm:num_requests_running{{{name}}}") == 0
    assert value(f"vllm:num_requests_waiting{{{name}}}") == 0
    assert value(f"vllm:kv_cache_usage_perc{{{name}}}") == 0.25
    assert value(f"vllm:num_preemptions_total{{{name}}}") == 0


async def test_metrics_can_be_switched_off() -> None:
    async with serving(FakeEngine(say("a")), metrics=False) as client:
        assert (await client.get("/metrics")).status == 404
        assert (await client.chat()).status == 200


async def test_draining_refuses_new_work_at_once() -> None:
    engine = FakeEngine(say(*"abcd", seconds=0.03))
    async with serving(engine, drain_seconds=2.0) as client:
        call = client.begin_chat(stream=True)
        await wait_for_stream(engine)
        client.app.begin_drain()
        client.app.begin_drain()
        await asyncio.sleep(0.01)
        refused, ready = await client.chat(), await client.get("/ready")
        reply = await call.whole()
    assert (refused.status, ready.status) == (503, 503)
    assert int(refused.headers["retry-after"]) > 0
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_what_outlives_the_drain_is_told() -> None:
    engine = FakeEngine()
    async with serving(engine, drain_seconds=0.0) as client:
        call = client.begin_chat(stream=True, n=2)
        await wait_for_stream(engine, 2)
        engine.streams[0].feed(TextDelta("a", (97,)))
        await call.written('"content":"a"')
    reply = await call.whole(2.0)
    assert reply.chunks[-1]["error"]["code"] == "model_not_ready"
    assert reply.data[-1] == "[DONE]"


async def test_cancel_and_time_limit_together() -> None:
    engine = FakeEngine()
    async with serving(engine, request_timeout_seconds=0.05) as client:
        call = client.begin_chat(n=2)
        await wait_for_stream(engine, 2)
        engine.streams[1].feed(TextDelta("ab", (97, 98)))
        await asyncio.sleep(0.01)
        (running,) = (await client.get("/v1/status")).json["requests"]
        for _ in range(2):
            await client.get(f"/v1/requests/{running['id']}", method="DELETE")
        reply = await call.whole(2.0)
        await asyncio.sleep(0.08)
    assert [c["finish_reason"] for c in reply.json["choices"]] == ["abort", "abort"]
    assert reply.json["usage"]["completion_tokens"] == 2


class StuckCall(Call):
    """A client that reads nothing at all."""

    async def _send(self, message: dict[str, Any]) -> None:
        await asyncio.Event().wait()


async def test_a_client_that_leaves_before_the_first_byte_is_written() -> None:
    """Falcon never begins the stream then: nothing may be left waiting for it."""
    engine = FakeEngine()
    async with serving(engine, keepalive_seconds=0.02) as client:
        idle_tasks = len(asyncio.all_tasks())
        body = json.dumps(chat_body(stream=True)).encode()
        call = StuckCall(client.app, "POST", "/v1/chat/completions", body)
        await wait_for_stream(engine)
        await asyncio.sleep(0.05)
        call.leave()
        await call.whole(2.0)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == idle_tasks
        assert engine.live == []


async def test_the_end_of_an_answer_is_no_disconnect() -> None:
    """Servers say "disconnect" after the last byte too: what follows it must still run."""
    events, after = [{"type": "http.request"}], []

    async def receive() -> dict[str, Any]:
        return events.pop() if events else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.body"})
        await asyncio.sleep(0.01)
        after.append("ran")

    scope = {"type": "http", KEY: Exchange("id", "GET", "/")}
    await CancelOnDisconnect(inner)(scope, receive, send)
    assert after == ["ran"]
    assert scope[KEY].client_left is False  # type: ignore[attr-defined]
