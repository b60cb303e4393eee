"""The automatic choice: rules name known formats, and say why."""

# ruff: noqa: RUF001  (some families write a full-width bar)

import pytest

from vllm_mlx.parsers.detect import detect_formats
from vllm_mlx.parsers.formats.registry import REASONING_FORMAT_OF, TOOL_FORMAT_OF
from vllm_mlx.parsers.formats.rules import REASONING_RULES, TOOL_RULES


def test_rules_name_known_formats() -> None:
    assert {rule.name for rule in TOOL_RULES} - {None} <= set(TOOL_FORMAT_OF)
    assert {rule.name for rule in REASONING_RULES} - {None} <= set(REASONING_FORMAT_OF)


@pytest.mark.parametrize(
    ("template", "model_type", "tool", "reasoning"),
    [
        ('{{ \'<tool_call>\\n{"name": "\' }}</think>', "qwen3", "qwen", "qwen3"),
        ("<tool_call>{{ tool_call.name }}", "llama", "hermes", None),
        ("<tool_call>\\n<function=' + name", "qwen3_5", "qwen3_coder", None),
        ("<tool_call>\\n<function=' + name + '</think>", "step3p5", "step3p5", "step3p5"),
        ("<tool_call>' + name + '<arg_key></think>", "glm4_moe", "glm47", "glm4"),
        ("[TOOL_CALLS] [THINK]", "mistral3", "mistral", "mistral"),
        ("<｜tool▁calls▁begin｜> <｜Assistant｜><think>\\n", "qwen2", "deepseek_v3", "deepseek_r1"),
        ("<|channel|>analysis<|message|><|call|>", "gpt_oss", "harmony", "harmony"),
        (None, "gpt_oss", "harmony", "harmony"),
        (None, "deepseek_v32", "deepseek_v4", "deepseek_v4"),
        ("<|im_start|>{{ message.content }}", "llama", None, None),
        (None, None, None, None),
    ],
)
def test_choices(
    template: str | None, model_type: str | None, tool: str | None, reasoning: str | None
) -> None:
    detected = detect_formats(template, model_type)
    assert (detected.tool.name, detected.reasoning.name) == (tool, reasoning)
    assert detected.tool.why
    assert detected.reasoning.why


def test_the_reason_names_what_was_found() -> None:
    detected = detect_formats("<tool_call> </think>", "qwen3")
    assert "<tool_call>" in detected.tool.why
    assert "qwen3" in detected.tool.why
    assert "</think>" in detected.reasoning.why
