"""Formats by name."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from vllm_mlx.errors import ConfigError
from vllm_mlx.parsers.formats.description import ReasoningFormat, ToolFormat
from vllm_mlx.parsers.formats.more_tools import TOOL_FORMATS
from vllm_mlx.parsers.formats.reasoning import REASONING_FORMATS

F = TypeVar("F", ToolFormat, ReasoningFormat)


def _by_name(formats: Iterable[F]) -> Mapping[str, F]:
    return MappingProxyType({name: one for one in formats for name in one.names})


TOOL_FORMAT_OF = _by_name(TOOL_FORMATS)
REASONING_FORMAT_OF = _by_name(REASONING_FORMATS)


def tool_format(name: str) -> ToolFormat:
    """Raises ConfigError for a name that no format has."""
    return _get(TOOL_FORMAT_OF, name, "tool")


def reasoning_format(name: str) -> ReasoningFormat:
    """Raises ConfigError for a name that no format has."""
    return _get(REASONING_FORMAT_OF, name, "reasoning")


def _get(formats: Mapping[str, F], name: str, kind: str) -> F:
    if name not in formats:
        known = ", ".join(sorted(formats))
        raise ConfigError(f"no {kind} parser is named {name!r}; known: {known}", f"parsers.{kind}")
    return formats[name]
