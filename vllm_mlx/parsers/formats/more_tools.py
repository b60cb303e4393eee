"""Tool-call formats of further families, and all of them together."""

from vllm_mlx.parsers.bodies.headed import HeadedCalls
from vllm_mlx.parsers.bodies.json_object import JsonCalls
from vllm_mlx.parsers.bodies.tagged import Head, TaggedCalls
from vllm_mlx.parsers.bodies.tagged_value import ValueRules
from vllm_mlx.parsers.formats import regions as r
from vllm_mlx.parsers.formats.description import ToolFormat
from vllm_mlx.parsers.formats.tools import KNOWN_TOOL_FORMATS

TOOL_FORMATS = (
    *KNOWN_TOOL_FORMATS,
    ToolFormat(
        names=("seed_oss",),
        families="Seed-OSS",
        wire="as qwen3_xml in `<seed:tool_call>`",
        regions=(r.function_tags("seed:tool_call", trims_newline=False),),
    ),
    ToolFormat(
        names=("command", "cohere"),
        families="Command R7B, Command A, North",
        wire='`<|START_ACTION|>`[{"tool_name", "parameters"}]`<|END_ACTION|>`',
        regions=(
            JsonCalls(
                opens=("<|START_ACTION|>",), closes=("<|END_ACTION|>",), id_keys=("tool_call_id",)
            ),
        ),
        noise=(
            "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>",
        ),
    ),
    ToolFormat(
        names=("apertus",),
        families="Apertus",
        wire='`<|tools_prefix|>`[{"f": {...}}]`<|tools_suffix|>`',
        regions=(
            JsonCalls(opens=("<|tools_prefix|>",), closes=("<|tools_suffix|>",), keyed=True),
        ),
    ),
    ToolFormat(
        names=("tool_calls_json", "apriel", "minimax_m1"),
        families="Apriel, MiniMax M1",
        wire="`<tool_calls>`, a JSON array or one object a line, `</tool_calls>`",
        regions=(JsonCalls(opens=("<tool_calls>",), closes=("</tool_calls>",)),),
    ),
    ToolFormat(
        names=("firefunction",),
        families="FireFunction v2",
        wire='`functools`[{"name", "arguments"}]',
        regions=(JsonCalls(opens=("functools",)),),
    ),
    ToolFormat(
        names=("hunyuan_v3",),
        families="Hunyuan 3",
        wire="as glm47 with `<tool_sep>` after the name, every tag with a suffix",
        regions=(
            TaggedCalls(
                opens=("<tool_calls:opensource>",),
                closes=("</tool_calls:opensource>",),
                call=Head("<tool_call:opensource>", "<tool_sep:opensource>"),
                call_close="</tool_call:opensource>",
                parameter=Head("<arg_key:opensource>", "</arg_key:opensource>"),
                value_open="<arg_value:opensource>",
                values=ValueRules("</arg_value:opensource>", untyped="literal"),
            ),
        ),
    ),
    ToolFormat(
        names=("solar",),
        families="Solar Open",
        wire="`<|tool_call:begin|>`id`<|tool_call:name|>`f`<|tool_call:args|>`{json}",
        regions=(
            HeadedCalls(
                opens=("<|tool_calls|>",),
                closes=("<|calls|>",),
                calls=("<|tool_call:begin|>",),
                call_closes=("<|tool_call:end|>",),
                head=rf"(?P<id>[\w\-]+)<\|tool_call:name\|>{r.NAME}<\|tool_call:args\|>\s*",
            ),
        ),
    ),
    ToolFormat(
        names=("gigachat3",),
        families="GigaChat 3",
        wire="`<|function_call|>`{json}, or function call`<|role_sep|>`{json}",
        regions=(
            JsonCalls(
                opens=(
                    "<|function_call|>",
                    "<|message_sep|>\n\nfunction call<|role_sep|>",
                    "function call<|role_sep|>",
                ),
                closes=("<|message_sep|>",),
            ),
        ),
    ),
)  # fmt: skip
