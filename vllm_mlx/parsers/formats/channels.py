"""Formats whose replies are messages with headers."""

from vllm_mlx.parsers.formats.description import Channels

HARMONY = Channels(
    starts=("<|start|>", "<|channel|>"),
    implicit=("to=",),
    messages=("<|message|>",),
    ends=("<|end|>", "<|call|>", "<|return|>"),
    head=r"(?:<\|start\|>|<\|constrain\|>\s*+\w++|\s++|to=(?P<recipient>[\w.\-]++)"
    r"|<\|channel\|>(?P<channel>analysis|commentary|final)|assistant|json|code)*",
    reasoning=("analysis",),
    readers=("user", "all", "assistant"),
    prefix="functions.",
)
FUNCTIONARY = Channels(
    starts=(">>>", "<|recipient|>"),
    messages=("\n<|content|>", "<|content|>", "\n"),
    ends=(),
    head=r"(?:>>>|<\|recipient\|>)?\s*(?P<recipient>[\w.\-]+)\s*",
    readers=("all", "user"),
    prefix="functions.",
    begins_in_head=True,
)
MUSE = Channels(
    starts=("<|start|>",),
    implicit=("to=",),
    messages=("<|message|>",),
    ends=("<|eom|>", "<|eot|>"),
    head=r"(?:<\|start\|>)?\s*(?:assistant)?\s*(?:to=(?P<recipient>[\w.\-]+))?\s*",
    reasoning=("self",),
    readers=("user", "commentary"),
    calls=False,
)
