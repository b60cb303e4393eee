"""Completions over HTTP: prompts of every kind, echo, logprobs, best_of."""

from typing import Any

import pytest

from tests.asgi_driver import serving
from tests.fakes import BOS, FakeEngine, FakeStream, by_choice, say

pytestmark = pytest.mark.anyio


async def test_one_prompt() -> None:
    engine = FakeEngine(say("yes"))
    async with serving(engine) as client:
        reply = await client.complete()
    assert reply.json["object"] == "text_completion"
    assert reply.json["choices"] == [
        {"index": 0, "text": "yes", "logprobs": None, "finish_reason": "stop"}
    ]
    assert reply.json["usage"]["prompt_tokens"] == 3
    assert engine.streams[0].generation.stopping.max_tokens == 16, "OpenAI's default here"


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [(BOS, 97, 98)]),
        (["a", "b"], [(BOS, 97), (BOS, 98)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
async def test_prompts_of_every_kind(prompt: Any, ids: list[tuple[int, ...]]) -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        reply = await client.complete(prompt=prompt, n=2)
    assert [s.generation.prompt_ids for s in engine.streams] == [i for i in ids for _ in range(2)]
    assert [s.generation.choice for s in engine.streams] == [0, 1] * len(ids)
    assert [c["index"] for c in reply.json["choices"]] == list(range(2 * len(ids)))
    assert reply.json["usage"]["prompt_tokens"] == sum(map(len, ids)), "each prompt billed once"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [260]}, "prompt"),
        ({"prompt": [[1], [-1]]}, "prompt[1]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"prompt": ["a"] * 4097}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": "", "add_special_tokens": False}, "prompt"),
    ],
)
async def test_invalid_values(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine(say("x"))
    async with serving(engine) as client:
        reply = await client.complete(**fields)
    assert (reply.status, reply.error["param"]) == (400, param), reply.body
    assert engine.streams == []


async def test_suffix_is_unsupported() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.complete(suffix="end")
        assert (await client.complete(suffix="")).status == 200
    assert (reply.status, reply.error["param"]) == (400, "suffix")
    assert reply.error["code"] == "unsupported_parameter"


async def test_missing_prompt_is_named() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.post("/v1/completions", {"model": "default"})
    assert (reply.status, reply.error["param"]) == (400, "prompt")


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(stream: bool) -> None:
    async with serving(FakeEngine(say("x", "y"))) as client:
        reply = await client.complete(prompt=["ab", "cd"], echo=True, stream=stream)
    if stream:
        texts = ["", ""]
        for chunk in reply.chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        texts = [choice["text"] for choice in reply.json["choices"]]
    assert texts == ["abxy", "cdxy"]


async def test_echo_of_token_ids_is_their_text() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.complete(prompt=[BOS, 97, 98], echo=True)
    assert reply.json["choices"][0]["text"] == "abx"


async def test_scoring_a_prompt_without_generating() -> None:
    engine = FakeEngine(say("never"))
    async with serving(engine) as client:
        reply = await client.complete(prompt="h€", echo=True, logprobs=1, max_tokens=0)
    (choice,) = reply.json["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("h€", "length")
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<256>", "h", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert logprobs["token_logprobs"] == [None, -0.25, -0.25, -0.25, -0.25]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][1] == {"h": -0.5}
    assert logprobs["text_offset"] == [0, 0, 1, 1, 1]
    assert engine.streams[0].generation.stopping.max_tokens == 0
    assert reply.json["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("echo", [False, True])
async def test_logprobs_whole_equal_streamed(echo: bool) -> None:
    async with serving(FakeEngine(say("ab", "c"))) as client:
        fields = {"prompt": "Hi", "logprobs": 2, "echo": echo}
        whole = (await client.complete(**fields)).json["choices"][0]
        streamed = await client.complete(**fields, stream=True)
    assert len(whole["logprobs"]["tokens"]) == (6 if echo else 3)
    joined: dict[str, list[Any]] = {name: [] for name in whole["logprobs"]}
    for chunk in streamed.chunks:
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            joined[name] += values
    assert joined == whole["logprobs"]
    text, offsets = whole["text"], whole["logprobs"]["text_offset"]
    tail = zip(whole["logprobs"]["tokens"][-3:], offsets[-3:], strict=True)
    assert all(text[offset : offset + 1] == token for token, offset in tail)


async def test_logprobs_zero_gives_the_chosen_token() -> None:
    async with serving(FakeEngine(say("a"))) as client:
        reply = await client.complete(logprobs=0)
    assert reply.json["choices"][0]["logprobs"] == {
        "tokens": ["a"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"a": -0.5}],
        "text_offset": [0],
    }


async def test_best_of_keeps_the_best_mean() -> None:
    def answer(text: str, total: float) -> Any:
        async def play(stream: FakeStream) -> None:
            from vllm_mlx.core.delta import TextDelta

            stream.feed(TextDelta(text, tuple(text.encode())))
            stream.finish("stop", cumulative_logprob=total)

        return play

    player = by_choice(answer("poor", -8.0), answer("b", -1.5), answer("best one", -4.0))
    engine = FakeEngine(player)
    async with serving(engine) as client:
        reply = await client.complete(n=2, best_of=3)
        two = await client.complete(prompt=["p", "q"], n=1, best_of=3)
    assert [c["text"] for c in reply.json["choices"]] == ["best one", "b"]
    assert [c["index"] for c in reply.json["choices"]] == [0, 1]
    assert [c["logprobs"] for c in reply.json["choices"]] == [None, None], "they were not asked"
    assert reply.json["usage"]["completion_tokens"] == 4 + 1 + 8, "all that was generated"
    assert engine.streams[0].generation.top_logprobs == 0, "ranking needs them"
    assert [c["text"] for c in two.json["choices"]] == ["best one", "best one"]
    assert [c["index"] for c in two.json["choices"]] == [0, 1]


async def test_n_is_not_ranked() -> None:
    engine = FakeEngine(by_choice(say("ab"), say("a")))
    async with serving(engine) as client:
        reply = await client.complete(n=2, logprobs=0)
    assert [c["text"] for c in reply.json["choices"]] == ["ab", "a"]


async def test_stream_order() -> None:
    async with serving(FakeEngine(say("a", "b"))) as client:
        reply = await client.complete(stream=True, stream_options={"include_usage": True})
    texts = [c["choices"][0]["text"] for c in reply.chunks if c["choices"]]
    assert texts == ["a", "b", ""]
    assert reply.chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 2
    assert reply.data[-1] == "[DONE]"


async def test_tokenize_and_back() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        text = await client.post("/tokenize", {"prompt": "h€"})
        bare = await client.post(
            "/tokenize", {"prompt": "h", "add_special_tokens": False, "return_token_strs": True}
        )
        chat = await client.post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
        back = await client.post("/detokenize", {"tokens": text.json["tokens"]})
        neither = await client.post("/tokenize", {})
        both = await client.post(
            "/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "Hi"}]}
        )
        unknown = await client.post("/detokenize", {"tokens": [260]})
    ids = [BOS, *"h€".encode()]
    assert text.json == {"count": 5, "max_model_len": 4096, "tokens": ids, "token_strs": None}
    assert (bare.json["tokens"], bare.json["token_strs"]) == ([104], ["h"])
    assert chat.json["count"] == len("user: Hi\nassistant:") + 1
    assert back.json == {"prompt": "<256>h€"}
    assert (neither.status, both.status) == (400, 400)
    assert (unknown.status, unknown.error["param"]) == (400, "tokens")
