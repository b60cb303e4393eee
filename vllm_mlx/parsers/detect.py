"""The choice of formats from what a checkpoint says about itself: pure, and it says why.

The rules are data, in ``formats/rules.py``.
"""

from msgspec import Struct

from vllm_mlx.parsers.formats.rules import REASONING_RULES, TOOL_RULES, Rule


class Choice(Struct, frozen=True):
    """A format's name, or None, and the reason, for people."""

    name: str | None
    why: str


class Detected(Struct, frozen=True):
    """What ``parsers=auto`` means for one model."""

    tool: Choice
    reasoning: Choice


def detect_formats(chat_template: str | None, model_type: str | None) -> Detected:
    """Chooses by the template's text and config.json's model_type, either of which may be None."""
    # templates write a line break as such or as its escape
    template = (chat_template or "").replace("\\n", "\n")
    kind = (model_type or "").lower()
    return Detected(
        tool=_choose(TOOL_RULES, template, kind, "tool calls"),
        reasoning=_choose(REASONING_RULES, template, kind, "thinking"),
    )


def _choose(rules: tuple[Rule, ...], template: str, model_type: str, topic: str) -> Choice:
    for rule in rules:
        if all(one in template for one in rule.has) and _is_type(rule, model_type):
            return Choice(rule.name, _why(rule, model_type))
    return Choice(None, f"no rule for {topic} fits the chat template or model type {model_type!r}")


def _is_type(rule: Rule, model_type: str) -> bool:
    return not rule.model_types or model_type.startswith(rule.model_types)


def _why(rule: Rule, model_type: str) -> str:
    reasons = [f"the chat template has {' and '.join(rule.has)}"] if rule.has else []
    reasons += [f"the model type is {model_type}"] if rule.model_types else []
    reasons += ["no parser reads this format"] if rule.name is None else []
    return ", ".join(reasons)
