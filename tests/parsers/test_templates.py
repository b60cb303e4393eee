"""Round trips: what a model's own chat template writes for a call is read back identically.

One renderer comes with mlx-lm. The templates of some seventy families are in the source package
of llama-cpp-python, which the suite does not need otherwise:

    pip download --no-deps --no-binary :all: llama-cpp-python
    tar xzf llama_cpp_python-*.tar.gz --wildcards '*/models/templates/*.jinja' --strip-components=5
    CHAT_TEMPLATES=. pytest tests/parsers/test_templates.py
"""

import json
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment

from vllm_mlx.parsers.base import Folded, fold
from vllm_mlx.parsers.detect import detect_formats
from vllm_mlx.parsers.formats.registry import reasoning_format, tool_format
from vllm_mlx.parsers.ids import CountingIds
from vllm_mlx.parsers.machine import Markup

FOLDER = os.environ.get("CHAT_TEMPLATES")
FILES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
# no round trip, and why
NO_CALLS = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "calls are fenced actions in prose",
    "HuggingFaceTB-SmolLM3-3B": "does not write past calls",
    "LFM2-8B-A1B": "does not write past calls",
    "LFM2.5-Instruct": "does not write past calls",
    "MiniMax-M3": "nested tags are not read",
    "NVIDIA-Nemotron-Nano-v2": "the history leaves the thinking open",
    "fireworks-ai-llama-3-firefunction-v2": "wants functions beside tools",
    "google-gemma-2-2b-it": "knows no tools",
    "ibm-granite-granite-3.3-2B-Instruct": "does not write past calls",
    "llama-cpp-deepseek-r1": "uses what this environment does not have",
    "llama-cpp-rwkv-world": "knows no tools",
    "microsoft-Phi-3.5-mini-instruct": "knows no tools",
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "integer", "description": "how many"},
            "flags": {"type": "array", "items": {"type": "string"}, "description": "more"},
            "opt": {"type": "object", "properties": {"x": {"type": "number"}}, "description": "x"},
            "on": {"type": "boolean", "description": "whether"},
        },
        "required": ["city"],
    },
    "search": {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what"}},
        "required": ["query"],
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
CALLS = [
    (
        "get_weather",
        {
            "city": 'Pa"ris <b>\n😀 {"a": [1]}',
            "days": 3,
            "flags": ["a", "b"],
            "opt": {"x": 1.5},
            "on": True,
        },
    ),
    ("search", {"query": "x y"}),
]
USER, CONTENT, REASONING = "Hi there", "Let me look.", "I think so"


def environment() -> SandboxedEnvironment:
    env = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def tojson(value: Any, **options: Any) -> str:
        known = {"indent", "separators", "sort_keys"} & set(options)
        return json.dumps(value, ensure_ascii=False, **{key: options[key] for key in known})

    def refuse(message: str) -> None:
        raise TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=refuse, strftime_now=lambda _: "2026-01-01")
    return env


def assistant(count: int, content: str | None, *, as_text: bool) -> dict[str, Any]:
    calls = [
        {
            "id": f"call{n:05d}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": json.dumps(value, ensure_ascii=False) if as_text else value,
            },
        }
        for n, (name, value) in enumerate(CALLS[:count])
    ]
    message = {"role": "assistant", "content": content, "reasoning_content": REASONING}
    return {**message, "tool_calls": calls} if calls else message


def render(source: str, messages: list[dict[str, Any]], *, prompt: bool) -> str:
    # a tag of training masks, which carries nothing here
    source = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
    context = {"bos_token": "<BOS>", "eos_token": "<EOS>", "tools": TOOLS, "enable_thinking": True}
    return (
        environment()
        .from_string(source)
        .render(messages=messages, add_generation_prompt=prompt, **context)
    )


def replies(source: str) -> Iterator[tuple[str, str, int]]:
    """Prompt, reply and number of calls, for what the template can write, best first."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": USER}
    for count, content, asked, as_text in product(
        (2, 1), (CONTENT, "", None), ([system, user], [user]), (False, True)
    ):
        try:
            prompt = render(source, asked, prompt=True)
            message = assistant(count, content, as_text=as_text)
            whole = render(source, [*asked, message], prompt=False)
        except (TemplateError, TypeError, AttributeError):
            continue
        shared = shared_start(prompt, whole)
        reply = whole[len(shared) :]
        if USER in shared and all(name in reply for name, _ in CALLS[:count]):
            yield shared, reply, count


def shared_start(prompt: str, whole: str) -> str:
    """The prompt, or what a history that leaves thoughts out has of it."""
    length = next(
        (n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt)
    )
    return prompt if length == len(prompt) else prompt[:length].rstrip("<[")


def read(source: str, prompt: str, reply: str) -> Folded:
    detected = detect_formats(source, None)
    assert detected.tool.name, detected.tool.why
    reasoning = reasoning_format(detected.reasoning.name) if detected.reasoning.name else None
    markup = Markup(tool_format(detected.tool.name), reasoning)
    parser = markup.reply(SCHEMAS, CountingIds(), in_reasoning=markup.begins_in_reasoning(prompt))
    return fold([event for char in reply for event in parser.feed(char)] + parser.finish())


@pytest.mark.skipif(not FILES, reason="CHAT_TEMPLATES names no folder of *.jinja")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_call_survives_its_own_template(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if path.stem in NO_CALLS:
        pytest.skip(NO_CALLS[path.stem])
    prompt, reply, count = next(replies(source))
    folded = read(source, prompt, reply)
    assert [(c.name, json.loads(c.arguments)) for c in folded.calls] == CALLS[:count], reply
    assert [c.problem for c in folded.calls] == [None] * count
    said = folded.content + folded.reasoning
    for text in (CONTENT, REASONING):
        assert said.count(text) == reply.count(text)


@pytest.mark.parametrize("thinking", [True, False])
def test_a_call_survives_the_renderer_of_deepseek_v32(thinking: bool) -> None:
    renderer = pytest.importorskip("mlx_lm.chat_templates.deepseek_v32")
    asked = [{"role": "user", "content": USER}]
    message = assistant(2, CONTENT, as_text=True)
    prompt = renderer.apply_chat_template(
        asked, tools=TOOLS, enable_thinking=thinking, add_generation_prompt=True
    )
    whole = renderer.apply_chat_template(
        [*asked, message], tools=TOOLS, enable_thinking=thinking, drop_thinking=False
    )
    shared = shared_start(prompt, whole)
    markup = Markup(tool_format("deepseek_v32"), reasoning_format("deepseek_v32"))
    parser = markup.reply(SCHEMAS, CountingIds(), in_reasoning=markup.begins_in_reasoning(shared))
    folded = fold([e for char in whole[len(shared) :] for e in parser.feed(char)])
    assert [(c.name, json.loads(c.arguments)) for c in folded.calls] == CALLS
    assert folded.reasoning == (REASONING if thinking else "")
    assert folded.content.startswith(CONTENT)
