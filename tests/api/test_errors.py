"""Every refusal: its status, OpenAI's four members, its headers, and that nothing was run."""

import asyncio
import logging
from typing import Any

import pytest

from tests.asgi_driver import chat_body, serving
from tests.fakes import FakeEngine, say, until
from vllm_mlx.core.delta import TextDelta
from vllm_mlx.errors import GenerationFailed

pytestmark = pytest.mark.anyio

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"260": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 10**30}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"top_logprobs": 0, "logprobs": False}, "top_logprobs"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": [260]}, "stop_token_ids"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"timeout": 0}, "timeout"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "zz"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"model": 5}, "model"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_invalid_values(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        reply = await client.chat(**fields)
    assert reply.status == 400, reply.body
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["code"]
    assert param.partition("[")[0] in reply.error["message"]
    assert engine.streams == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"guided_json": {}}, "guided_json"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"best_of": 2}, "best_of"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"echo": True}, "echo"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]},
         "messages[0].content[1]"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}]},
         "messages[0].tool_calls[0].type"),
    ],
)  # fmt: skip
async def test_unsupported_values_are_named(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        reply = await client.chat(**fields)
    assert reply.status == 400, reply.body
    assert (reply.error["param"], reply.error["code"]) == (param, "unsupported_parameter")
    assert engine.streams == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"messages": [}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b"\xff\xfe",
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b'{"metadata":' + b"[" * 100_000,
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"x"}]} trailing',
    ],
)
async def test_invalid_json(body: bytes) -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.post("/v1/chat/completions", body)
    assert reply.status == 400, reply.body
    assert (reply.error["code"], reply.error["param"]) == ("invalid_json", None)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5"])
async def test_body_that_is_no_object(body: bytes) -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.post("/v1/chat/completions", body)
    assert (reply.status, reply.error["param"]) == (400, None)


async def test_infinity_by_exponent() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.post(
            "/v1/chat/completions",
            b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}',
        )
    assert (reply.status, reply.error["param"]) == (400, "temperature")


async def test_wrong_tags_list_the_right_ones() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        role = await client.chat(messages=[{"role": "wizard"}])
        part = await client.chat(messages=[{"role": "user", "content": [{"type": "picture"}]}])
    assert "developer, function, system, tool, user" in role.error["message"]
    assert "image_url" in part.error["message"]
    assert "text" in part.error["message"]


async def test_prompt_too_long_tells_both_numbers() -> None:
    async with serving(FakeEngine(say("x"), context_tokens=64)) as client:
        chat = await client.chat(messages=[{"role": "user", "content": "x" * 100}])
        text = await client.complete(prompt="y" * 64)
        streamed = await client.chat(stream=True, messages=[{"role": "user", "content": "x" * 99}])
    for reply, param, tokens in (
        (chat, "messages", 118),
        (text, "prompt", 65),
        (streamed, "messages", 117),
    ):
        assert reply.status == 400
        assert (reply.error["code"], reply.error["param"]) == ("context_length_exceeded", param)
        assert f"prompt is too long: {tokens} tokens > 64 maximum" in reply.error["message"]


async def test_unknown_model() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.chat(model="gpt-9")
    assert reply.status == 404
    assert (reply.error["code"], reply.error["param"]) == ("model_not_found", "model")
    assert "fake/bytes" in reply.error["message"]


async def test_template_failure_keeps_its_words() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.chat(messages=[{"role": "user", "content": "raise in template"}])
    assert reply.status == 400
    assert "the template says no" in reply.error["message"]


async def test_body_limit_with_and_without_a_declared_length() -> None:
    big = b'{"messages":[{"role":"user","content":"' + b"x" * 2**20 + b'"}]}'
    pieces = [big[i : i + 65536] for i in range(0, len(big), 65536)]
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        declared = await client.post("/v1/chat/completions", big)
        chunked = await client.post("/v1/chat/completions", pieces)
        small = await client.post(
            "/v1/chat/completions", [b'{"messages":[{"role":"user",', b'"content":"a"}]}']
        )
    for reply in (declared, chunked):
        assert reply.status == 413
        assert reply.error["code"] == "body_too_large"
    assert small.status == 200


async def test_content_types() -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:

        async def status(kind: str | None, **more: str) -> int:
            headers = {"content-type": kind, **more} if kind else more
            return (await client.post("/v1/chat/completions", chat_body(), headers=headers)).status

        assert await status(None) == 200
        assert await status("application/json") == 200
        assert await status("application/json; charset=utf-8") == 200
        assert await status("application/vnd.api+json") == 200
        assert await status("application/x-www-form-urlencoded") == 200, "curl -d"
        assert await status("application/x-www-form-urlencoded", origin="http://evil") == 415
        assert await status("text/plain") == 415
        assert await status("multipart/form-data; boundary=x") == 415


async def test_routes_and_methods() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        gone = await client.get("/v1/nothing")
        method = await client.get("/v1/chat/completions")
        head = await client.get("/v1/chat/completions", method="HEAD")
    assert (gone.status, gone.error["code"]) == (404, "not_found")
    assert (method.status, method.error["code"]) == (405, "method_not_allowed")
    assert "POST" in method.headers["allow"]
    assert head.status == 405


async def test_queue_full() -> None:
    engine = FakeEngine(queue_limit=2)
    async with serving(engine) as client:
        reply = await client.chat(n=3)
        assert (reply.status, reply.headers["retry-after"]) == (429, "7")
        assert reply.error["code"] == "queue_full"
        assert engine.live == [], "the two that fitted are aborted"
        assert all(stream.aborts == 1 for stream in engine.streams)


async def test_before_the_model_is_loaded() -> None:
    gate = asyncio.Event()
    engine = FakeEngine(say("x"), start_gate=gate)
    async with serving(engine, wait=False) as client:
        for path in ("/health", "/version"):
            assert (await client.get(path)).status == 200
        ready = await client.get("/ready")
        chat, models = await client.chat(), await client.get("/v1/models")
        status, metrics = await client.get("/v1/status"), await client.get("/metrics")
        gate.set()
        await client.app.loaded()
        assert (await client.get("/ready")).json["ready"] is True
        assert (await client.chat()).status == 200
    assert (ready.status, ready.json["state"]) == (503, "starting")
    for reply in (chat, models):
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) > 0
        assert reply.error["code"] == "model_not_ready"
    assert (status.status, status.json["model"]) == (200, None)
    assert metrics.status == 200


async def test_load_failure_is_told() -> None:
    engine = FakeEngine(start_error=RuntimeError("no such folder"))
    async with serving(engine, wait=False) as client:
        with pytest.raises(RuntimeError, match="no such folder"):
            await client.app.loaded()
        ready, health = await client.get("/ready"), await client.get("/health")
    assert (ready.status, ready.json["failure"]) == (503, "no such folder")
    assert (health.status, health.json["status"]) == (503, "failed")


async def test_unexpected_errors_show_no_inside(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(say("x"))

    def broken(*args: object, **kwargs: object) -> list[int]:
        raise KeyError("secret inside")

    engine.codec.render_chat = broken  # type: ignore[assignment]
    async with serving(engine) as client:
        reply = await client.chat()
    assert reply.status == 500
    assert reply.error["code"] == "internal_error"
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert any(record.exc_info for record in caplog.records), "but the log has it"


async def test_failure_before_the_first_delta_has_a_status() -> None:
    async def play(stream: Any) -> None:
        stream.feed(GenerationFailed("NaN logits"))

    async with serving(FakeEngine(play)) as client:
        whole, streamed = await client.chat(), await client.chat(stream=True)
    for reply in (whole, streamed):
        assert (reply.status, reply.error["code"]) == (500, "generation_failed")


async def test_failure_in_mid_stream_is_a_frame_then_done() -> None:
    async def play(stream: Any) -> None:
        stream.feed(TextDelta("a", (97,)), GenerationFailed("NaN logits"))

    async with serving(FakeEngine(play)) as client:
        reply = await client.chat(stream=True)
        assert reply.status == 200
        assert reply.complete
        assert reply.chunks[-1]["error"]["code"] == "generation_failed"
        assert reply.data[-1] == "[DONE]"
        assert (await client.chat(n=1)).status == 500


async def test_one_failing_choice_ends_the_request_and_frees_the_others() -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        call = client.begin_chat(stream=True, n=2)
        await until(lambda: len(engine.streams) == 2)
        engine.streams[0].feed(TextDelta("a", (97,)))
        await call.written('"content":"a"')
        engine.streams[0].feed(TextDelta("b", (98,)))
        engine.streams[1].feed(GenerationFailed("boom"))
        reply = await call.whole()
        assert b'"content":"b"' in reply.body, "what came before the failure is not lost"
        assert reply.chunks[-1]["error"]["message"] == "boom"
        assert engine.streams[0].ended, "the other choice is aborted"


async def test_unknown_fields_are_named() -> None:
    fields = {
        "top_a": 1,
        "zebra\r\nset-cookie: x": 1,
        "ünicode": 1,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}], "y": 2}],
    }
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.chat(**fields)
    assert reply.status == 200
    names = reply.headers["x-ignored-fields"].split(",")
    assert set(names) == {
        "top_a",
        "zebra??set-cookie:?x",
        "?nicode",
        "messages[0].y",
        "messages[0].content[0].x",
    }


async def test_strict_refuses_unknown_fields() -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine, strict=True) as client:
        reply = await client.chat(top_a=1)
    assert (reply.status, reply.error["param"]) == (400, "top_a")
    assert reply.error["code"] == "unknown_field"
    assert engine.streams == []


async def test_text_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "correct horse battery"
    async with serving(FakeEngine(say("staple answer"))) as client:
        await client.chat(messages=[{"role": "user", "content": secret}], user="somebody", odd=1)
        await client.chat(messages=[{"role": "user", "content": secret}], stream=True)
        await client.complete(prompt=secret)
        await client.post("/v1/chat/completions", b'{"messages": "' + secret.encode() + b'"}')
    logged = caplog.text
    assert "finish=stop" in logged
    assert "ignored_fields=odd" in logged
    for text in (secret, "staple", "somebody"):
        assert text not in logged
