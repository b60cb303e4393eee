"""What the end of a prompt says about the reply."""

from vllm_mlx.parsers.formats.description import ReasoningFormat

_TAIL_CHARS = 256


def begins_in_reasoning(form: ReasoningFormat, prompt: str) -> bool | None:
    """Whether the prompt's end leaves the thinking open or closed; None if it says neither."""
    tail = prompt[-_TAIL_CHARS:].rstrip()
    for marker in form.closes:
        if tail.endswith(marker):
            return False
    for marker in form.opens:
        if tail.endswith(marker.rstrip()):
            return True
    return None
