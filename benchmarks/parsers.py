"""What reading a reply costs per token, streamed one token at a time, in microseconds.

    python benchmarks/parsers.py [--repeat 20] [--only hermes]

A token is four characters. "parser" is events alone; "deltas" goes through the interpreter, as
the engine does; "start" is the once-a-reply cost. The bar is 5 us per token.
"""

import argparse
import json
import time
from collections.abc import Callable

from vllm_mlx.core.delta import TextDelta
from vllm_mlx.parsers.formats.registry import reasoning_format, tool_format
from vllm_mlx.parsers.ids import CountingIds
from vllm_mlx.parsers.interpret import Interpreter
from vllm_mlx.parsers.machine import Markup

TOKEN_CHARS = 4
PROSE = "The quick brown fox jumps over the lazy dog, and 3 < 4 holds.\n" * 40
CODE = 'def area(radius: float) -> float:\n    """Area."""\n    return 3.14159 * radius**2\n' * 25
SCHEMAS = {
    "write": {"properties": {"path": {"type": "string"}, "text": {"type": "string"}}},
    "numbers": {"properties": {"rows": {"type": "array"}, "n": {"type": "integer"}}},
}
CALL = {"path": "a/b.py", "text": CODE}
ROWS = {"n": 5, "rows": [{"a": n, "b": [True, None, 1.5]} for n in range(60)]}


def as_json(name: str, arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def as_pairs() -> str:
    pairs = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in CALL.items()
    )
    return f"<tool_call>write\n{pairs}</tool_call>"


def as_xml() -> str:
    values = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in CALL.items())
    return f"<tool_call>\n<function=write>\n{values}</function>\n</tool_call>"


def as_gemma() -> str:
    inside = ",".join(f'{key}:<|"|>{value}<|"|>' for key, value in CALL.items())
    return f"<|tool_call>call:write{{{inside}}}<tool_call|>"


# name -> tool format, reasoning format, text
CASES: dict[str, tuple[str | None, str | None, str]] = {
    "content": ("hermes", "qwen3", PROSE),
    "content, every format": ("auto", "qwen3", PROSE),
    "thinking": ("hermes", "qwen3", f"<think>{PROSE}</think>Yes."),
    "json, code": ("hermes", "qwen3", f"<tool_call>{as_json('write', CALL)}</tool_call>"),
    "json, structure": ("hermes", "qwen3", f"<tool_call>{as_json('numbers', ROWS)}</tool_call>"),
    "xml, code": ("qwen3_xml", "qwen3", as_xml()),
    "pairs, code": ("glm47", "glm4", as_pairs()),
    "mistral, code": ("mistral", "mistral", f"[TOOL_CALLS]write[ARGS]{json.dumps(CALL)}"),
    "gemma4, code": ("gemma4", "gemma4", as_gemma()),
    "pythonic, code": ("pythonic", None, f"[write(path={CALL['path']!r}, text={CODE!r})]"),
    "harmony, code": (
        "harmony",
        "harmony",
        f"<|channel|>analysis<|message|>{PROSE}<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.write <|constrain|>json<|message|>{json.dumps(CALL)}<|call|>",
    ),
}


def best_us(run: Callable[[], None], repeat: int, tokens: int) -> float:
    """The fastest of some runs, per token: the machine is never quiet."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) / tokens * 1e6


def measure(name: str, repeat: int) -> str:
    """One line of the table."""
    tool, reasoning, text = CASES[name]
    markup = Markup(
        tool_format(tool) if tool else None, reasoning_format(reasoning) if reasoning else None
    )
    pieces = [text[n : n + TOKEN_CHARS] for n in range(0, len(text), TOKEN_CHARS)]
    deltas = [TextDelta(piece, (n,)) for n, piece in enumerate(pieces)]

    def start() -> None:
        markup.reply(SCHEMAS, CountingIds(), in_reasoning=False)

    def parse() -> None:
        parser = markup.reply(SCHEMAS, CountingIds(), in_reasoning=False)
        for piece in pieces:
            parser.feed(piece)
        parser.finish()

    def interpret() -> None:
        interpreter = Interpreter(markup.reply(SCHEMAS, CountingIds(), in_reasoning=False))
        for delta in deltas:
            interpreter.feed(delta)

    tokens = len(pieces)
    per_token = [best_us(run, repeat, tokens) for run in (parse, interpret)]
    return f"{name:24}{tokens:8}{per_token[0]:12.2f}{per_token[1]:12.2f}" + (
        f"{best_us(start, repeat, 1):12.1f}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeat", type=int, default=20)
    arguments.add_argument("--only", default="", help="part of a case's name")
    options = arguments.parse_args()
    print(f"{'case':24}{'tokens':>8}{'parser us':>12}{'deltas us':>12}{'start us':>12}")
    for name in CASES:
        if options.only in name:
            print(measure(name, options.repeat))


if __name__ == "__main__":
    main()
