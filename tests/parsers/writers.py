"""What a model of each family would write for given calls: the inverse of the parsers.

Written from the formats' descriptions and chat templates, not from the parsers' code.
"""

# ruff: noqa: RUF001  (some families write a full-width bar)

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Call = tuple[str, dict[str, Any]]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """A value between tags: strings as they are."""
    return value if isinstance(value, str) else dumps(value)


@dataclass(frozen=True)
class Writer:
    """``calls`` writes one group of calls; ``said`` writes content (for formats of messages)."""

    calls: Callable[[list[Call]], str]
    said: Callable[[str], str] = lambda text: text
    as_written: bool = False  # argument text passes through unchanged
    at_start: bool = False  # recognised only where the content begins
    many: bool = True  # a group may hold several calls
    forbidden: tuple[str, ...] = ()  # what a string value of this family cannot hold


def json_calls(opener: str, closer: str, *, array: bool, arguments: str = "arguments") -> Writer:
    def write(calls: list[Call]) -> str:
        objects = [
            f'{{"name": {dumps(name)}, "{arguments}": {dumps(value)}}}' for name, value in calls
        ]
        if array:
            return f"{opener}[{', '.join(objects)}]{closer}"
        return "\n".join(f"{opener}{one}{closer}" for one in objects)

    return Writer(write, as_written=True)


def function_tags(wrapper: str, newline: str) -> Writer:
    def one(call: Call) -> str:
        values = "".join(
            f"\n<parameter={key}>{newline}{plain(value)}{newline}</parameter>"
            for key, value in call[1].items()
        )
        return f"<{wrapper}>\n<function={call[0]}>{values}\n</function>\n</{wrapper}>"

    return Writer(
        lambda calls: "\n".join(map(one, calls)), forbidden=("</parameter>", "</function>")
    )


def invoke_tags(wrapper: str, prefix: str, *, typed: bool) -> Writer:
    def one(call: Call) -> str:
        lines = [f'<{prefix}invoke name="{call[0]}">']
        for key, value in call[1].items():
            kind = f' string="{"true" if isinstance(value, str) else "false"}"' if typed else ""
            lines.append(
                f'<{prefix}parameter name="{key}"{kind}>{plain(value)}</{prefix}parameter>'
            )
        return "\n".join([*lines, f"</{prefix}invoke>"])

    return Writer(
        lambda calls: f"<{wrapper}>\n" + "\n".join(map(one, calls)) + f"\n</{wrapper}>",
        forbidden=(f"</{prefix}parameter>", f"</{prefix}invoke>"),
    )


def key_value_tags(prefix: str, gap: str) -> Writer:
    def one(call: Call) -> str:
        pairs = "".join(
            f"{gap}<{prefix}arg_key>{key}</{prefix}arg_key>{gap}"
            f"<{prefix}arg_value>{plain(value)}</{prefix}arg_value>"
            for key, value in call[1].items()
        )
        return f"<{prefix}tool_call>{call[0]}{pairs}{gap}</{prefix}tool_call>"

    return Writer(
        lambda calls: gap.join(map(one, calls)),
        forbidden=(f"</{prefix}arg_value>", f"</{prefix}tool_call>"),
    )


def deepseek(calls: list[Call]) -> str:
    inside = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(value)}\n```"
        "<｜tool▁call▁end｜>"
        for name, value in calls
    )
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: list[Call]) -> str:
    inside = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(value)}<｜tool▁call▁end｜>"
        for name, value in calls
    )
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def kimi_k2(calls: list[Call]) -> str:
    inside = "".join(
        f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{dumps(value)}"
        "<|tool_call_end|>"
        for n, (name, value) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inside}<|tool_calls_section_end|>"


_K3_TYPES = {str: "string", bool: "boolean", int: "number", float: "number", list: "array",
             dict: "object", type(None): "null"}  # fmt: skip


def kimi_k3(calls: list[Call]) -> str:
    text = "<|open|>tools<|sep|>"
    for n, (name, arguments) in enumerate(calls, 1):
        text += f'<|open|>call tool="{name}" index="{n}"<|sep|>'
        for key, value in arguments.items():
            kind = _K3_TYPES[type(value)]
            text += f'<|open|>argument key="{key}" type="{kind}"<|sep|>{plain(value)}'
            text += "<|close|>argument<|sep|>"
        text += "<|close|>call<|sep|>"
    return text + "<|close|>tools<|sep|>"


def kimi_k3_json(calls: list[Call]) -> str:
    (call,) = calls
    return (
        f'<|open|>tools<|sep|><|open|>call tool="{call[0]}" index="1"<|sep|>'
        f'<|open|>json type="object"<|sep|>{dumps(call[1])}<|close|>json<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|>"
    )


def minicpm5(calls: list[Call]) -> str:
    def value_of(value: Any) -> str:
        text = plain(value)
        return f"<![CDATA[{text}]]>" if isinstance(value, str) else text

    return "\n".join(
        f'<function name="{name}">'
        + "".join(
            f'<param name="{key}">{value_of(value)}</param>' for key, value in arguments.items()
        )
        + "</function>"
        for name, arguments in calls
    )


def gemma(quote: str) -> Callable[[Any], str]:
    def value_of(value: Any) -> str:
        if isinstance(value, str):
            return f"{quote}{value}{quote}"
        if isinstance(value, list):
            return "[" + ",".join(map(value_of, value)) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{value_of(v)}" for k, v in value.items()) + "}"
        return dumps(value)

    return value_of


def gemma_calls(opener: str, closer: str, quote: str) -> Writer:
    value_of = gemma(quote)
    return Writer(
        lambda calls: "".join(
            f"{opener}call:{name}{value_of(arguments)}{closer}" for name, arguments in calls
        ),
        forbidden=(quote, quote[:1]),
    )


def pythonic(opener: str, closer: str, *, at_start: bool = False) -> Writer:
    def one(call: Call) -> str:
        return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"

    return Writer(
        lambda calls: f"{opener}[{', '.join(map(one, calls))}]{closer}", at_start=at_start
    )


def mistral(calls: list[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumps(value)}" for name, value in calls)


def mistral_old(calls: list[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{name}{dumps(value)}" for name, value in calls)


def mistral_ids(calls: list[Call]) -> str:
    return "".join(
        f"[TOOL_CALLS]{name}[CALL_ID]abcdefghi[ARGS]{dumps(value)}" for name, value in calls
    )


def harmony(calls: list[Call]) -> str:
    return "".join(
        f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{dumps(value)}<|call|>"
        for name, value in calls
    )


def harmony_template(calls: list[Call]) -> str:
    return "".join(
        f"<|start|>assistant to=functions.{name}<|channel|>analysis json<|message|>"
        f"{dumps(value)}<|call|>"
        for name, value in calls
    )


def harmony_said(text: str) -> str:
    return f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>" if text else ""


def muse(calls: list[Call]) -> str:
    tags = invoke_tags("atem:function_calls", "atem:", typed=False)
    return "".join(
        f"<|start|>assistant to={call[0]}<|message|>{tags.calls([call])}<|eom|>" for call in calls
    )


def muse_said(text: str) -> str:
    return f"<|start|>assistant to=user<|message|>{text}<|eom|>" if text else ""


def apertus(calls: list[Call]) -> str:
    return f"<|tools_prefix|>[{', '.join(dumps({n: v}) for n, v in calls)}]<|tools_suffix|>"


def command(calls: list[Call]) -> str:
    objects = ",\n    ".join(
        f'{{"tool_call_id": "{n}", "tool_name": {dumps(name)}, "parameters": {dumps(value)}}}'
        for n, (name, value) in enumerate(calls)
    )
    return f"<|START_ACTION|>[\n    {objects}\n]<|END_ACTION|>"


def solar(calls: list[Call]) -> str:
    inside = "".join(
        f"<|tool_call:begin|>abc-{n}<|tool_call:name|>{name}<|tool_call:args|>{dumps(value)}"
        "<|tool_call:end|>"
        for n, (name, value) in enumerate(calls)
    )
    return f"<|tool_calls|>{inside}<|calls|>"


def hunyuan(calls: list[Call]) -> str:
    text = "<tool_calls:opensource>\n"
    for name, arguments in calls:
        text += f"<tool_call:opensource>{name}<tool_sep:opensource>\n"
        for key, value in arguments.items():
            text += f"<arg_key:opensource>{key}</arg_key:opensource>\n"
            text += f"<arg_value:opensource>{plain(value)}</arg_value:opensource>\n"
        text += "</tool_call:opensource>\n"
    return text + "</tool_calls:opensource>"


def function_json(calls: list[Call]) -> str:
    return "".join(f"<function={name}>{dumps(value)}</function>" for name, value in calls)


def raw_json(opener: str, closer: str = "", **options: bool) -> Callable[[list[Call]], str]:
    return json_calls(opener, closer, array=False, **options).calls  # type: ignore[arg-type]


def written(calls: Callable[[list[Call]], str], **options: Any) -> Writer:
    return Writer(calls, as_written=True, **options)


HERMES = json_calls("<tool_call>\n", "\n</tool_call>", array=False)
XML = function_tags("tool_call", "\n")
PAIRS = key_value_tags("", "\n")
MISTRAL_ARRAY = json_calls("[TOOL_CALLS]", "", array=True)
GEMMA4 = gemma_calls("<|tool_call>", "<tool_call|>", '<|"|>')
DSML = invoke_tags("｜DSML｜tool_calls", "｜DSML｜", typed=True)
BARE = Writer(
    lambda calls: f'{{"name": {dumps(calls[0][0])}, "parameters": {dumps(calls[0][1])}}}',
    as_written=True, at_start=True, many=False,
)  # fmt: skip
CALLING = written(lambda calls: "\n".join(f"[Calling tool: {n}({dumps(v)})]" for n, v in calls))
K3_CLOSES = ("<|close|>argument<|sep|>", "<|close|>call<|sep|>")

# format -> every way its models write
WRITERS: Mapping[str, tuple[Writer, ...]] = {
    "auto": (GEMMA4, DSML, HERMES, XML, PAIRS, MISTRAL_ARRAY, written(mistral), CALLING, BARE),
    "mistral": (MISTRAL_ARRAY, written(mistral), written(mistral_old), written(mistral_ids)),
    "qwen": (HERMES, XML, CALLING),
    "qwen3_xml": (XML, HERMES),
    "llama": (
        json_calls("<|python_tag|>", "", array=False, arguments="parameters"),
        BARE, written(function_json), pythonic("", "", at_start=True),
    ),
    "hermes": (HERMES, json_calls("<tool_call>", "</tool_call>", array=True)),
    "deepseek": (written(deepseek), written(deepseek_v31)),
    "deepseek_v4": (DSML, invoke_tags("｜DSML｜function_calls", "｜DSML｜", typed=True)),
    "kimi": (written(kimi_k2),),
    "kimi_k3": (
        Writer(kimi_k3, forbidden=K3_CLOSES), written(kimi_k3_json, many=False),
    ),
    "granite": (
        json_calls("<|tool_call|>", "", array=True),
        json_calls("<tool_call>", "", array=True),
    ),
    "nemotron": (XML, HERMES, json_calls("<TOOLCALL>", "</TOOLCALL>", array=True)),
    "xlam": (
        Writer(json_calls("", "", array=True).calls, as_written=True, at_start=True),
        json_calls("```json\n", "\n```", array=True),
        json_calls("[TOOL_CALLS]", "", array=True),
    ),
    "functionary": (written(function_json),),
    "glm47": (PAIRS, key_value_tags("", "")),
    "poolside_v1": (PAIRS,),
    "longcat": (
        key_value_tags("longcat_", "\n"),
        json_calls("<longcat_tool_call>", "</longcat_tool_call>", array=False),
    ),
    "harmony": (
        written(harmony, said=harmony_said), written(harmony_template, said=harmony_said),
    ),
    "minimax": (invoke_tags("minimax:tool_call", "", typed=False),),
    "muse": (
        Writer(muse, said=muse_said, forbidden=("</atem:parameter>", "</atem:invoke>")),
    ),
    "minicpm5": (Writer(minicpm5, forbidden=("]]>",)),),
    "gemma4": (GEMMA4,),
    "function_gemma": (
        gemma_calls("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    "pythonic": (
        pythonic("<|tool_call_start|>", "<|tool_call_end|>"),
        pythonic("<|python_start|>", "<|python_end|>"),
        pythonic("", "", at_start=True),
    ),
    "step3p5": (XML,),
    "seed_oss": (function_tags("seed:tool_call", ""),),
    "command": (written(command),),
    "apertus": (written(apertus),),
    "tool_calls_json": (
        json_calls("<tool_calls>", "</tool_calls>", array=True),
        written(
            lambda calls: "<tool_calls>\n"
            + "\n".join(dumps({"name": n, "arguments": v}) for n, v in calls)
            + "\n</tool_calls>"
        ),
    ),
    "firefunction": (json_calls("functools", "", array=True),),
    "hunyuan_v3": (
        Writer(
            hunyuan, forbidden=("</arg_value:opensource>", "</tool_call:opensource>")
        ),
    ),
    "solar": (written(solar),),
    "gigachat3": (json_calls("<|function_call|>", "<|message_sep|>", array=False),),
}  # fmt: skip
