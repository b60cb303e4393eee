"""Chat over HTTP: what reaches the engine, what comes back whole, what comes back streamed."""

import pytest

from tests.asgi_driver import chat_body, serving
from tests.fakes import FakeEngine, by_choice, say, until
from vllm_mlx.core.delta import ReasoningDelta, TextDelta, ToolCallDelta

pytestmark = pytest.mark.anyio


async def test_whole_answer() -> None:
    async with serving(FakeEngine(say("hel", "lo"))) as client:
        reply = await client.chat()
    assert reply.status == 200
    body = reply.json
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "fake/bytes"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    prompt = len("user: Hi\nassistant:") + 1
    assert body["usage"]["prompt_tokens"] == prompt
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["total_tokens"] == prompt + 5


async def test_chunk_order() -> None:
    async with serving(FakeEngine(say("hel", "lo"))) as client:
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.data[-1] == "[DONE]"
    role, first, second, finish, usage = reply.chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert first["choices"][0]["delta"] == {"content": "hel"}
    assert second["choices"][0]["delta"] == {"content": "lo"}
    assert finish["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert [chunk["usage"] for chunk in (role, first, second, finish)] == [None] * 4
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert len({chunk["id"] for chunk in reply.chunks}) == 1


async def test_no_usage_unless_asked() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.chat(stream=True)
    assert all("usage" not in chunk for chunk in reply.chunks)
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_usage_so_far() -> None:
    async with serving(FakeEngine(say("hel", "lo"))) as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        reply = await client.chat(stream=True, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in reply.chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 5


async def test_what_reaches_the_engine() -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        await client.chat(
            temperature=0.5,
            top_p=0.9,
            top_k=-1,
            min_p=0.1,
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.2,
            logit_bias={"65": -100},
            seed=2**63,
            stop=["a", "b"],
            stop_token_ids=[7],
            min_tokens=2,
            max_tokens=9,
            max_completion_tokens=5,
            ignore_eos=True,
            priority=-3,
            logprobs=True,
            top_logprobs=4,
            skip_special_tokens=False,
        )
    (stream,) = engine.streams
    asked, sampling, stopping = (
        stream.generation,
        stream.generation.sampling,
        stream.generation.stopping,
    )
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert sampling.logit_bias == {65: -100}
    assert sampling.seed == 2**63
    assert stopping.stop == ("a", "b")
    assert stopping.stop_token_ids == (7,)
    assert (stopping.min_tokens, stopping.max_tokens) == (2, 5)
    assert stopping.ignore_eos
    assert (asked.priority, asked.top_logprobs, asked.skip_special_tokens) == (-3, 4, False)


async def test_defaults_come_from_the_card() -> None:
    engine = FakeEngine(
        say("x"), card_more={"sampling_defaults": {"temperature": 0.6, "top_k": 20.0}}
    )
    async with serving(engine) as client:
        await client.chat()
        await client.chat(temperature=0.0, top_k=0)
    silent, spoken = (stream.generation.sampling for stream in engine.streams)
    assert (silent.temperature, silent.top_k, silent.top_p) == (0.6, 20, 1.0)
    assert (spoken.temperature, spoken.top_k) == (0.0, 0)


@pytest.mark.parametrize(
    ("operator", "asked", "got"),
    [
        ({}, None, None),
        ({}, 10**9, 10**9),  # the engine caps at the context
        ({"default_max_tokens": 7}, None, 7),
        ({"default_max_tokens": 7}, 9, 9),
        ({"max_request_tokens": 5}, None, 5),
        ({"max_request_tokens": 5}, 9, 5),
        ({"max_request_tokens": 5, "default_max_tokens": 3}, None, 3),
    ],
)
async def test_max_tokens(operator: dict[str, int], asked: int | None, got: int | None) -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine, **operator) as client:
        await client.chat(max_tokens=asked)
    assert engine.streams[0].generation.stopping.max_tokens == got


async def test_choices() -> None:
    engine = FakeEngine(by_choice(say("one"), say("t", "wo"), say("three", reason="length")))
    async with serving(engine) as client:
        whole = (await client.chat(n=3)).json
        streamed = await client.chat(n=3, stream=True)
    assert [c["message"]["content"] for c in whole["choices"]] == ["one", "two", "three"]
    assert [c["finish_reason"] for c in whole["choices"]] == ["stop", "stop", "length"]
    prompt = len("user: Hi\nassistant:") + 1
    assert whole["usage"]["prompt_tokens"] == prompt, "a prompt is billed once"
    assert whole["usage"]["completion_tokens"] == 3 + 3 + 5
    texts = ["", "", ""]
    seen: list[list[dict[str, object]]] = [[], [], []]
    for chunk in streamed.chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        seen[choice["index"]].append(choice)
    assert texts == ["one", "two", "three"]
    for own in seen:
        assert own[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert [c["finish_reason"] is not None for c in own] == [False] * (len(own) - 1) + [True]
    assert [stream.generation.choice for stream in engine.streams] == [0, 1, 2] * 2


async def test_logprobs() -> None:
    async with serving(FakeEngine(say("h€", "y"))) as client:
        whole = (await client.chat(logprobs=True, top_logprobs=2)).json["choices"][0]["logprobs"]
        streamed = await client.chat(logprobs=True, top_logprobs=2, stream=True)
        none = (await client.chat()).json["choices"][0]["logprobs"]
        only = (await client.chat(logprobs=True)).json["choices"][0]["logprobs"]
    assert [bytes(e["bytes"]) for e in whole["content"]] == [b"h", b"\xe2", b"\x82", b"\xac", b"y"]
    assert [len(e["top_logprobs"]) for e in whole["content"]] == [2] * 5
    pieces = [c["choices"][0]["logprobs"] for c in streamed.chunks]
    assert [len(piece["content"]) for piece in pieces if piece] == [4, 1]
    assert [e for piece in pieces if piece for e in piece["content"]] == whole["content"]
    assert none is None
    assert [e["top_logprobs"] for e in only["content"]] == [[]] * 5


async def test_stop_match_is_told() -> None:
    async def play(stream) -> None:  # type: ignore[no-untyped-def]
        stream.finish("stop", stop_match="END")

    async with serving(FakeEngine(play)) as client:
        whole, streamed = await client.chat(), await client.chat(stream=True)
    assert whole.json["choices"][0]["stop_reason"] == "END"
    assert streamed.chunks[-1]["choices"][0]["stop_reason"] == "END"


async def test_reasoning_and_tool_calls_fold_as_they_stream() -> None:
    async def play(stream) -> None:  # type: ignore[no-untyped-def]
        stream.feed(ReasoningDelta("hm", (1,)), ReasoningDelta("m", (2,)))
        stream.feed(ToolCallDelta(0, "call_1", "look", ""), ToolCallDelta(0, arguments='{"a":'))
        stream.feed(ToolCallDelta(0, arguments="1}"), ToolCallDelta(1, "call_2", "go", "{}"))
        stream.finish("tool_calls")

    async with serving(FakeEngine(play)) as client:
        message = (await client.chat()).json["choices"][0]["message"]
        streamed = await client.chat(stream=True)
    assert message["content"] is None
    assert message["reasoning_content"] == "hmm"
    assert message["tool_calls"] == [
        {"id": "call_1", "function": {"name": "look", "arguments": '{"a":1}'}, "type": "function"},
        {"id": "call_2", "function": {"name": "go", "arguments": "{}"}, "type": "function"},
    ]
    deltas = [c["choices"][0]["delta"] for c in streamed.chunks]
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert [call.get("id") for call in calls] == ["call_1", None, None, "call_2"]
    assert [call["index"] for call in calls] == [0, 0, 0, 1]
    assert streamed.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_ready_deltas_share_a_write() -> None:
    engine = FakeEngine()
    async with serving(engine) as client:
        call = client.begin_chat(stream=True)
        await until(lambda: bool(engine.streams))
        (stream,) = engine.streams
        stream.feed(TextDelta("a", (97,)))
        await call.written('"content":"a"')
        stream.feed(TextDelta("b", (98,)), TextDelta("c", (99,)), TextDelta("", (1,)))
        stream.finish()
        reply = await call.whole()
    assert len(reply.writes) == 2
    assert reply.writes[1].count(b"data: ") == 4, "b, c, finish, [DONE]; held-back text is no chunk"


async def test_template_gets_the_whole_history() -> None:
    engine = FakeEngine(say("x"))
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"x": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
    ]
    async with serving(engine) as client:
        reply = await client.post(
            "/v1/chat/completions",
            {"messages": messages, "reasoning_effort": "low", "chat_template_kwargs": {"k": 1}},
        )
    assert reply.status == 200
    assert "x-ignored-fields" not in reply.headers
    (rendered,) = engine.codec.rendered
    assert rendered["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "b\nc"},
    ]
    assert rendered["template_arguments"] == {"k": 1, "reasoning_effort": "low"}
    assert rendered["add_generation_prompt"] is True


async def test_continue_final_message() -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        await client.chat(continue_final_message=True)
        await client.chat(add_generation_prompt=False)
        both = await client.chat(continue_final_message=True, add_generation_prompt=True)
    first, second = engine.codec.rendered
    assert (first["continue_final_message"], first["add_generation_prompt"]) == (True, False)
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (False, False)
    assert (both.status, both.error["param"]) == (400, "continue_final_message")


async def test_names_of_the_model() -> None:
    async with serving(FakeEngine(say("x")), served_name="mine", aliases=["gpt-4o"]) as client:
        for name in ("mine", "fake/bytes", "bytes", "gpt-4o", "default"):
            reply = await client.chat(model=name)
            assert (reply.status, reply.json["model"]) == (200, name)
            one = await client.get(f"/v1/models/{name}")
            assert (one.status, one.json["id"], one.json["root"]) == (200, name, "fake/bytes")
        assert (await client.chat()).json["model"] == "mine"
        assert (await client.chat(model=None)).json["model"] == "mine"
        listed = (await client.get("/v1/models")).json["data"]
        missing = await client.get("/v1/models/other/one")
    assert [entry["id"] for entry in listed] == ["mine", "fake/bytes", "bytes", "gpt-4o", "default"]
    assert listed[0]["context_length"] == 4096
    assert listed[0]["notes"] == ["a fake"]
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


async def test_nulls_count_as_absent() -> None:
    from vllm_mlx.wire.openai_chat import ChatRequest

    body = chat_body()
    body.update({name: None for name in ChatRequest.__struct_fields__ if name not in body})
    body["nobody_knows_it"] = None
    async with serving(FakeEngine(say("x")), strict=True) as client:
        reply = await client.post("/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    assert "x-ignored-fields" not in reply.headers


async def test_what_clients_send_along_is_accepted() -> None:
    along = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "stream_options": {"include_usage": False, "other": 1},
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "functions": [],
        "function_call": "none",
        "verbosity": "low",
        "best_of": 1,
        "length_penalty": 1.0,
        "logit_bias": {},
    }
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.chat(**along)
        none = await client.chat(tools=[{"type": "function"}], tool_choice="none")
    assert reply.status == 200, reply.body
    assert "x-ignored-fields" not in reply.headers
    assert none.status == 200, "tools that may not be called are left out"
