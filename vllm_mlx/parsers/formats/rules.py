"""Which format a model's chat template speaks: the first rule that holds decides.

A rule holds if the template has every text of ``has`` and, where ``model_types`` are given, the
checkpoint's model_type begins with one of them.
"""

# ruff: noqa: RUF001  (these families write a full-width bar)

from msgspec import Struct


class Rule(Struct, frozen=True):
    """``name`` of a format, or None for none."""

    name: str | None
    has: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()


TOOL_RULES = (
    Rule(None, ("]<]minimax[>[",)),  # nested tags of MiniMax M3: not read
    Rule("harmony", ("<|channel|>", "<|message|>", "<|call|>")),
    Rule("muse", ("atem:",)),
    Rule("minimax", ("<minimax:tool_call>",)),
    Rule("deepseek_v4", ("DSML",)),
    Rule("gemma4", ("<|tool_call>", "<tool_call|>")),
    Rule("function_gemma", ("<start_function_call>",)),
    Rule("longcat", ("<longcat_tool_call>",)),
    Rule("kimi_k3", ("<|open|>", "<|sep|>")),
    Rule("kimi_k3", ("[open_token]", "argument")),
    Rule("kimi", ("<|tool_calls_section_begin|>",)),
    Rule("deepseek_v3", ("<｜tool▁calls▁begin｜>",)),
    Rule("seed_oss", ("seed:tool_call",)),
    Rule("hunyuan_v3", ("<tool_sep", "<arg_key")),
    Rule("laguna", ("<arg_key>",), ("laguna",)),
    Rule("glm47", ("<arg_key>",)),
    Rule("pythonic", ("<|tool_call_start|>",)),
    Rule("pythonic", ("<|tool_list_start|>",)),
    Rule("pythonic", ("List of tools: [",)),
    Rule("minicpm5", ('<function name="', '<param name="')),
    Rule("step3p5", ("<tool_call>", "<function="), ("step",)),
    Rule("nemotron", ("<tool_call>", "<function="), ("nemotron",)),
    Rule("qwen3_coder", ("<tool_call>", "<function=")),
    Rule("functionary", ("<|recipient|>",)),
    Rule("functionary", (">>>", "<|start_header_id|>")),
    Rule("functionary", ("<function=", "</function>", "<|eom_id|>")),
    Rule("command", ("<|START_ACTION|>",)),
    Rule("apertus", ("<|tools_prefix|>",)),
    Rule("solar", ("<|tool_call:begin|>",)),
    Rule("gigachat3", ("<|role_sep|>", "function call")),
    Rule("gigachat3", ("<|function_call|>",)),
    Rule("xlam", (), ("xlam",)),
    Rule("granite", ("<|tool_call|>",)),
    Rule("nemotron", ("<TOOLCALL>",)),
    Rule("mistral", ("[TOOL_CALLS]",)),
    Rule("tool_calls_json", ("<tool_calls>",)),
    Rule("qwen", ("<tool_call>",), ("qwen",)),
    Rule("hermes", ("<tool_call>",)),
    Rule("pythonic", ("tools",), ("llama4", "lfm2")),
    Rule("pythonic", ("func_name1(",)),
    Rule("llama", ("<|python_tag|>",)),
    Rule("llama", ('"parameters": ', "<|start_header_id|>")),
    Rule("llama", ("<function=",)),
    Rule("firefunction", ("functools",)),
    Rule("harmony", (), ("gpt_oss",)),
    Rule("deepseek_v4", (), ("deepseek_v32", "deepseek_v4")),
    Rule("muse", (), ("muse",)),
    Rule("pythonic", (), ("lfm2",)),
    Rule("kimi_k3", (), ("kimi_k3",)),
)

REASONING_RULES = (
    Rule("harmony", ("<|channel|>", "analysis", "<|message|>")),
    Rule("muse", ("to=self", "<|message|>")),
    Rule("gemma4", ("<|channel>", "thought")),
    Rule("kimi_k3", ("<|open|>", "think", "<|sep|>")),
    Rule("kimi_k3", ("[open_token]", "think")),
    Rule("mistral", ("[THINK]",)),
    Rule("longcat", ("<longcat_think>",)),
    Rule("seed_oss", ("seed:think",)),
    Rule("command", ("<|START_THINKING|>",)),
    Rule("apriel", ("[BEGIN FINAL RESPONSE]",)),
    Rule("hunyuan_v3", ("<think", "</think", "HYTK")),
    Rule("deepseek_v4", ("DSML", "</think>")),
    Rule("glm4", ("</think>",), ("glm",)),
    Rule("laguna", ("</think>",), ("laguna",)),
    Rule("step3p5", ("</think>",), ("step",)),
    Rule("kimi_k2", ("</think>", "<|tool_calls_section_begin|>")),
    Rule("deepseek_r1", ("<｜Assistant｜><think>",)),
    Rule("deepseek_r1", ("<｜Assistant｜>", "</think>"), ("deepseek",)),
    Rule("deepseek_r1", ("<｜Assistant｜>", "</think>", "<｜tool▁calls▁begin｜>")),
    Rule("glm4", ("</think>", "<arg_key>")),
    Rule("minimax_m3", ("</mm:think>",)),
    Rule("qwen3", ("</think>",)),
    Rule("harmony", (), ("gpt_oss",)),
    Rule("deepseek_v4", (), ("deepseek_v32", "deepseek_v4")),
    Rule("muse", (), ("muse",)),
    Rule("kimi_k3", (), ("kimi_k3",)),
)
