"""The tool-call formats that most servers read, by family."""

# ruff: noqa: RUF001  (these families write a full-width bar)

from vllm_mlx.parsers.bodies.headed import HeadedCalls
from vllm_mlx.parsers.bodies.json_object import JsonCalls
from vllm_mlx.parsers.bodies.pythonic import PythonicCalls
from vllm_mlx.parsers.bodies.tagged import Head, TaggedCalls
from vllm_mlx.parsers.bodies.tagged_value import ValueRules
from vllm_mlx.parsers.formats import regions as r
from vllm_mlx.parsers.formats.channels import FUNCTIONARY, HARMONY, MUSE
from vllm_mlx.parsers.formats.description import ToolFormat

KNOWN_TOOL_FORMATS = (
    ToolFormat(
        names=("auto", "generic"),
        families="any",
        wire="Gemma 4, DSML, key/value pairs, Mistral, bracket, Hermes and XML, Llama, bare JSON",
        regions=(
            r.GEMMA4_CALL, r.DSML, r.TOOL_CALL_JSON, r.TOOL_CALL_XML, r.TOOL_CALL_PAIRS,
            r.MISTRAL_ARRAY, r.MISTRAL_HEADED, r.CALLING, r.PYTHON_TAG_JSON, r.PYTHON_TAG_CALL,
            r.BARE_OBJECT, r.BARE_ARRAY,
        ),
        native=False,
    ),
    ToolFormat(
        names=("mistral",),
        families="Mistral, Devstral, Ministral, Magistral",
        wire="`[TOOL_CALLS]` and a JSON array, or name`[ARGS]`{json}, or name{json}",
        regions=(r.MISTRAL_ARRAY, r.MISTRAL_HEADED),
        ids="short",
    ),
    ToolFormat(
        names=("qwen", "qwen3"),
        families="Qwen2.5, Qwen3",
        wire="`<tool_call>`{json}`</tool_call>`, `[Calling tool: f({})]`, `<function=f>` tags",
        regions=(r.TOOL_CALL_JSON, r.TOOL_CALL_XML, r.CALLING),
    ),
    ToolFormat(
        names=("qwen3_xml", "qwen3.5", "qwen3_coder"),
        families="Qwen3-Coder, Qwen3.5 and later",
        wire="`<tool_call><function=f><parameter=k>`v`</parameter></function></tool_call>`",
        regions=(r.TOOL_CALL_XML, r.TOOL_CALL_JSON),
    ),
    ToolFormat(
        names=("llama", "llama3", "llama4"),
        families="Llama 3 to 4",
        wire='`<|python_tag|>`{json}, bare {"name", "parameters"}, `<function=f>`{json}',
        regions=(
            r.PYTHON_TAG_JSON, r.PYTHON_TAG_CALL, r.PYTHON_TAG_CODE, r.TOOL_CALL_XML,
            r.BARE_OBJECT, r.PYTHON_LIST,
            PythonicCalls(opens=("<|python_start|>",), closes=("<|python_end|>",)),
        ),
    ),
    ToolFormat(
        names=("hermes", "nous"),
        families="Hermes, Qwen2.5, SmolLM3, Granite 4, many fine-tunes",
        wire="`<tool_call>`{json}`</tool_call>`, Python literals tolerated",
        regions=(r.TOOL_CALL_JSON,),
    ),
    ToolFormat(
        names=("deepseek", "deepseek_v3", "deepseek_r1", "deepseek_v31"),
        families="DeepSeek V3, V3.1, R1",
        wire="`<｜tool▁call▁begin｜>`function`<｜tool▁sep｜>`name, fenced or bare {json}",
        regions=(
            HeadedCalls(
                opens=("<｜tool▁calls▁begin｜>",),
                closes=("<｜tool▁calls▁end｜>",),
                calls=("<｜tool▁call▁begin｜>",),
                call_closes=("<｜tool▁call▁end｜>",),
                head=rf"\s*(?:function<｜tool▁sep｜>)?{r.NAME}\s*(?:<｜tool▁sep｜>)?\s*(?:```json)?\s*",
                value_closes=("```",),
            ),
        ),
    ),
    ToolFormat(
        names=("deepseek_v4", "dsml", "deepseek_v32"),
        families="DeepSeek V3.2 (`function_calls`) and V4 (`tool_calls`)",
        wire='`<｜DSML｜invoke name="f"><｜DSML｜parameter name="k" string="true">`v',
        regions=(r.DSML,),
    ),
    ToolFormat(
        names=("kimi", "kimi_k2", "moonshot"),
        families="Kimi K2, K2.5",
        wire="`<|tool_call_begin|>`functions.f:0`<|tool_call_argument_begin|>`{json}",
        regions=(
            HeadedCalls(
                opens=("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"),
                closes=("<|tool_calls_section_end|>", "<|tool_call_section_end|>"),
                calls=("<|tool_call_begin|>",),
                call_closes=("<|tool_call_end|>",),
                head=r"\s*(?P<id>(?:functions\.)?(?P<name>[\w.\-]+):\d+)\s*"
                r"<\|tool_call_argument_begin\|>\s*",
            ),
        ),
        ids="kimi",
    ),
    ToolFormat(
        names=("kimi_k3",),
        families="Kimi K3",
        wire='`<|open|>call tool="f"<|sep|><|open|>argument key="k" type="string"<|sep|>`v',
        regions=(
            TaggedCalls(
                opens=("<|open|>tools<|sep|>",),
                closes=("<|close|>tools<|sep|>",),
                call=Head("<|open|>call ", "<|sep|>", "tool"),
                call_close="<|close|>call<|sep|>",
                parameter=Head("<|open|>argument ", "<|sep|>", "key"),
                values=ValueRules("<|close|>argument<|sep|>", type_attribute="type"),
                json_head="<|open|>json",
                json_head_end="<|sep|>",
                json_close="<|close|>json<|sep|>",
            ),
        ),
        noise=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
        ),
        stops=("<|close|>message<|sep|>",),
    ),
    ToolFormat(
        names=("granite", "granite3"),
        families="IBM Granite 3, Phi-4-mini",
        wire="`<|tool_call|>` or `<tool_call>` and a JSON array",
        regions=(
            JsonCalls(
                opens=("<|tool_call|>", "<tool_call>"), closes=("</tool_call>", "<|/tool_call|>")
            ),
        ),
    ),
    ToolFormat(
        names=("nemotron", "nemotron3"),
        families="Nemotron 3, Nemotron Nano 2",
        wire="`<tool_call><function=f>` with parameters or {json}; `<TOOLCALL>`[json]",
        regions=(
            r.TOOL_CALL_XML,
            r.TOOL_CALL_JSON,
            JsonCalls(opens=("<TOOLCALL>",), closes=("</TOOLCALL>",)),
        ),
        native=False,
    ),
    ToolFormat(
        names=("xlam",),
        families="Salesforce xLAM",
        wire="a JSON array: bare, fenced, after `</think>`, or after `[TOOL_CALLS]`",
        regions=(r.BARE_ARRAY, r.BARE_OBJECT, r.FENCED, r.MISTRAL_ARRAY, r.TOOL_CALL_JSON),
        restarts=("</think>",),
        native=False,
    ),
    ToolFormat(
        names=("functionary", "meetkai"),
        families="Functionary v2 to v3.2",
        wire="`<|recipient|>`f`<|content|>`{json}, `>>>`f and {json}, or `<function=f>`{json}",
        regions=(r.TOOL_CALL_XML,),
        channels=FUNCTIONARY,
        noise=("<|from|>assistant\n", "<|stop|>"),
    ),
    ToolFormat(
        names=("glm47", "glm4"),
        families="GLM-4.5 to 5, Ling 3, Spark 2.5",
        wire="`<tool_call>`f`<arg_key>`k`</arg_key><arg_value>`v`</arg_value></tool_call>`",
        regions=(r.TOOL_CALL_PAIRS,),
        stops=("<|observation|>",),
    ),
    ToolFormat(
        names=("poolside_v1", "laguna"),
        families="Poolside Laguna",
        wire="as glm47",
        regions=(r.TOOL_CALL_PAIRS,),
    ),
    ToolFormat(
        names=("longcat",),
        families="LongCat Flash",
        wire="as glm47, every tag with `longcat_`; or {json} in `<longcat_tool_call>`",
        regions=(
            JsonCalls(opens=("<longcat_tool_call>",), closes=("</longcat_tool_call>",)),
            r.key_value_tags("longcat_"),
        ),
    ),
    ToolFormat(
        names=("harmony", "gpt-oss", "gpt_oss"),
        families="gpt-oss",
        wire="`<|channel|>`commentary to=functions.f`<|message|>`{json}`<|call|>`",
        channels=HARMONY,
        stops=("<|call|>", "<|return|>"),
        native=False,
    ),
    ToolFormat(
        names=("minimax", "minimax_m2"),
        families="MiniMax M2",
        wire='`<minimax:tool_call><invoke name="f"><parameter name="k">`v',
        regions=(r.invoke_tags("minimax:tool_call", prefix=""),),
        native=False,
    ),
    ToolFormat(
        names=("muse", "muse_spark"),
        families="Muse Spark, Muse Glimmer",
        wire='`<atem:function_calls><atem:invoke name="f"><atem:parameter name="k">`v',
        regions=(r.invoke_tags("atem:function_calls", prefix="atem:"),),
        channels=MUSE,
    ),
    ToolFormat(
        names=("minicpm5",),
        families="MiniCPM5",
        wire='`<function name="f"><param name="k">`v`</param></function>`, CDATA',
        regions=(
            TaggedCalls(
                call=Head("<function ", ">", "name"),
                call_close="</function>",
                parameter=Head("<param ", ">", "name"),
                values=ValueRules("</param>", cdata=True),
            ),
        ),
    ),
    ToolFormat(
        names=("gemma4",),
        families="Gemma 4",
        wire='`<|tool_call>`call:f{k:`<|"|>`v`<|"|>`}`<tool_call|>`, or a Python call',
        regions=(r.GEMMA4_CALL, r.GEMMA4_PYTHON),
        noise=("<|tool_response>",),
        stops=("<|tool_response>",),
        native=False,
    ),
    ToolFormat(
        names=("function_gemma",),
        families="FunctionGemma",
        wire="`<start_function_call>`call:f{k:`<escape>`v`<escape>`}`<end_function_call>`",
        regions=(r.FUNCTION_GEMMA_CALL,),
        stops=("<start_function_response>",),
    ),
    ToolFormat(
        names=("pythonic", "lfm2", "llama4_pythonic"),
        families="Llama 4, LFM2",
        wire='[f(k="v"), g()] bare, in `<|tool_call_start|>` or in `<|python_start|>`',
        regions=(
            PythonicCalls(
                opens=("<|tool_call_start|>", "<|python_start|>"),
                closes=("<|tool_call_end|>", "<|python_end|>"),
                starts=("[",),
            ),
            JsonCalls(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",)),
        ),
    ),
    ToolFormat(
        names=("step3p5", "step"),
        families="Step 3.5, 3.7",
        wire="as qwen3_xml; repeats of a call are dropped",
        regions=(r.TOOL_CALL_XML,),
        drops_repeats=True,
        stops=("</tool_call>",),
    ),
)  # fmt: skip
