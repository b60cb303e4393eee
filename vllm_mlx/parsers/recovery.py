"""Calls that are held until they are whole: to repair their arguments, or to drop repeats.

Streaming them as they are written is ``calls.CallWriter``'s work.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from vllm_mlx.parsers.base import CallArguments, CallEnd, CallProblem, Event, ToolSchemas
from vllm_mlx.parsers.calls import CallWriter
from vllm_mlx.parsers.coerce import parameter_types, to_json
from vllm_mlx.parsers.ids import IdFactory, IdStyle
from vllm_mlx.parsers.repair import repair_json
from vllm_mlx.parsers.scanner import Scanner

# none: arguments stream as they are written; buffered: each call waits until it is whole and valid
Recovery = Literal["none", "buffered"]


class HeldCallWriter(CallWriter):
    """Emits a call when it ends.

    ``buffered``: broken arguments are repaired and typed by the schema; what cannot be repaired
    becomes content. ``drops_repeats``: only calls after the first are held, and dropped if equal
    to an earlier one. Reads ``scan`` for the source of a call, and keeps it from being dropped.
    """

    __slots__ = (
        "_begin",
        "_drops",
        "_failed",
        "_given_id",
        "_name",
        "_pieces",
        "_recovers",
        "_scan",
        "_seen",
        "_tools",
    )  # fmt: skip

    def __init__(
        self,
        emit: Callable[[Event], None],
        ids: IdFactory,
        style: IdStyle,
        scan: Scanner,
        *,
        tools: ToolSchemas,
        recovery: Recovery,
        drops_repeats: bool,
    ) -> None:
        super().__init__(emit, ids, style)
        self._scan, self._tools = scan, tools
        self._recovers, self._drops = recovery == "buffered", drops_repeats
        self._name = ""
        self._given_id: str | None = None
        self._pieces: list[str] = []
        self._seen: set[tuple[str, str]] = set()
        self._begin = 0  # of the call's source, from the scanner's floor
        self._failed: list[str] = []

    @property
    def _streams(self) -> bool:
        return not self._recovers and not self._seen

    def enter(self) -> None:
        self._scan.floor = self._scan.pos if self._recovers else None
        self._begin = 0

    def leave(self) -> tuple[str, ...]:
        self._scan.floor = None
        failed, self._failed = tuple(self._failed), []
        return failed

    def start(self, name: str, given_id: str | None = None) -> None:
        self._name, self._given_id, self._pieces = name, given_id, []
        if self._streams:
            super().start(name, given_id)

    def write(self, text: str) -> None:
        self._pieces.append(text)
        if self._streams:
            super().write(text)

    def end(self, problem: CallProblem | None = None) -> None:
        arguments = "".join(self._pieces)
        if self._streams:
            super().end(problem)
            self._seen.add((self._name, arguments))
            return
        if self._recovers and not (problem == "truncated" and self._scan.is_cut):
            repaired = repair_arguments(arguments, self._tools.get(self._name) or {})
            source = self._source()
            if repaired is None:
                self._failed.append(source)
                return
            arguments, problem = repaired, None
        if self._drops and (self._name, arguments) in self._seen:
            return
        self._seen.add((self._name, arguments))
        super().start(self._name, self._given_id)
        self._emit(CallArguments(self.count - 1, arguments))
        self._emit(CallEnd(self.count - 1, problem))

    def _source(self) -> str:
        floor = self._scan.floor or 0
        source = self._scan.text[floor + self._begin : self._scan.pos]
        self._begin = self._scan.pos - floor
        return source


def repair_arguments(text: str, schema: Mapping[str, Any]) -> str | None:
    """Arguments as a valid JSON object of the schema's types; None if there is no telling.

    Valid arguments of the right types keep their spelling.
    """
    repaired = repair_json(text)
    if repaired is None:
        return None
    try:
        value = json.loads(repaired)
        if not isinstance(value, dict):
            return None
        typed = {key: _typed(one, parameter_types(schema, key)) for key, one in value.items()}
    except RecursionError:  # nested deeper than anybody would read
        return None
    if all(typed[key] is value[key] for key in value):
        return repaired
    return json.dumps(typed, ensure_ascii=False)


def _typed(value: Any, types: frozenset[str]) -> Any:
    """A value of one of the types, if it can be read as one; else itself."""
    if isinstance(value, str) and types and "string" not in types:
        typed = json.loads(to_json(value, types))
        return value if isinstance(typed, str) else typed
    if types == {"string"} and not isinstance(value, str) and value is not None:
        return json.dumps(value, ensure_ascii=False)
    return value
