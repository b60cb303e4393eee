"""Regions that more than one family writes."""

# ruff: noqa: RUF001  (these families write a full-width bar)

from vllm_mlx.parsers.bodies.headed import HeadedCalls
from vllm_mlx.parsers.bodies.json_object import JsonCalls
from vllm_mlx.parsers.bodies.pythonic import PythonicCalls
from vllm_mlx.parsers.bodies.raw import RawCalls
from vllm_mlx.parsers.bodies.tagged import Head, TaggedCalls
from vllm_mlx.parsers.bodies.tagged_value import ValueRules
from vllm_mlx.parsers.notation import FUNCTION_GEMMA, GEMMA4

NAME = r"(?P<name>[\w.\-]+)"


def function_tags(wrapper: str, *, trims_newline: bool) -> TaggedCalls:
    """``<function=f><parameter=k>v</parameter></function>``, or a JSON body, in a wrapper."""
    return TaggedCalls(
        opens=(f"<{wrapper}>",),
        closes=(f"</{wrapper}>",),
        call=Head("<function=", ">"),
        call_close="</function>",
        parameter=Head("<parameter=", ">"),
        values=ValueRules("</parameter>", trims_newline=trims_newline),
        json_body=True,
    )


def invoke_tags(*wrappers: str, prefix: str, string_attribute: str = "") -> TaggedCalls:
    """``<invoke name="f"><parameter name="k">v</parameter></invoke>`` in a wrapper."""
    return TaggedCalls(
        opens=tuple(f"<{one}>" for one in wrappers),
        closes=tuple(f"</{one}>" for one in wrappers),
        call=Head(f"<{prefix}invoke ", ">", "name"),
        call_close=f"</{prefix}invoke>",
        parameter=Head(f"<{prefix}parameter ", ">", "name"),
        values=ValueRules(
            f"</{prefix}parameter>", type_attribute=string_attribute, untyped="literal"
        ),
    )


def key_value_tags(prefix: str) -> TaggedCalls:
    """``<tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>``."""
    return TaggedCalls(
        opens=(f"<{prefix}tool_call>",),
        call=Head("", ""),
        call_close=f"</{prefix}tool_call>",
        parameter=Head(f"<{prefix}arg_key>", f"</{prefix}arg_key>"),
        value_open=f"<{prefix}arg_value>",
        values=ValueRules(f"</{prefix}arg_value>", untyped="literal"),
    )


TOOL_CALL_JSON = JsonCalls(opens=("<tool_call>",), closes=("</tool_call>",))
TOOL_CALL_XML = function_tags("tool_call", trims_newline=True)
TOOL_CALL_PAIRS = key_value_tags("")
DSML = invoke_tags(
    "｜DSML｜tool_calls", "｜DSML｜function_calls", prefix="｜DSML｜", string_attribute="string"
)
CALLING = HeadedCalls(
    calls=("[Calling tool:", "[Calling tool="),
    head=rf"\s*{NAME}\s*\(\s*",
    call_closes=(")]",),
)
MISTRAL_ARRAY = JsonCalls(opens=("[TOOL_CALLS]",))
MISTRAL_HEADED = HeadedCalls(
    calls=("[TOOL_CALLS]",),
    head=rf"\s*{NAME}\s*(?:\[CALL_ID\](?P<id>[\w\-]+))?\s*(?:\[ARGS\])?\s*",
)
GEMMA4_CALL = HeadedCalls(
    calls=("<|tool_call>",),
    head=rf"\s*(?:call:)?{NAME}\s*",
    call_closes=("<tool_call|>",),
    notation=GEMMA4,
)
GEMMA4_PYTHON = PythonicCalls(opens=("<|tool_call>",), closes=("<tool_call|>",), bare=True)
FUNCTION_GEMMA_CALL = HeadedCalls(
    calls=("<start_function_call>",),
    head=rf"\s*call:{NAME}\s*",
    call_closes=("<end_function_call>",),
    notation=FUNCTION_GEMMA,
)
PYTHON_TAG_JSON = JsonCalls(opens=("<|python_tag|>",))
PYTHON_TAG_CALL = PythonicCalls(opens=("<|python_tag|>",), bare=True, suffix=".call")
PYTHON_TAG_CODE = RawCalls(
    opens=("<|python_tag|>",), names=("code_interpreter", "python", "ipython")
)
BARE_OBJECT = JsonCalls(starts=("{",), guarded=True)
BARE_ARRAY = JsonCalls(starts=("[",), guarded=True)
FENCED = JsonCalls(opens=("```json", "```"), closes=("```",), guarded=True)
PYTHON_LIST = PythonicCalls(starts=("[",))
