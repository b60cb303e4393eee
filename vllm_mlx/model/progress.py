"""How long work on a checkpoint reports itself. Drawing is the only thing here."""

import sys
from types import TracebackType
from typing import Any, Protocol, TextIO

from tqdm import tqdm  # type: ignore[import-untyped]


class Progress(Protocol):
    """Called from the thread that works; must be cheap and must not raise."""

    def __call__(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        """``stage`` is a short phrase; ``done_bytes == total_bytes`` ends it."""
        ...


def no_progress(stage: str, done_bytes: int, total_bytes: int) -> None:
    """Reports nothing."""


class ProgressBars:
    """One bar a stage on a terminal; on anything else one line when a stage ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Any = None
        self._stage: str | None = None
        self._ended: set[str] = set()

    def __call__(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        if stage in self._ended:
            return
        if stage != self._stage:
            self._open(stage, total_bytes)
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.n)
        if done_bytes >= total_bytes:
            self._end(stage, total_bytes)

    def _open(self, stage: str, total_bytes: int) -> None:
        self.close()
        self._stage = stage
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_bytes, desc=stage, unit="B", unit_scale=True, file=self._stream
            )

    def _end(self, stage: str, total_bytes: int) -> None:
        self._ended.add(stage)
        if self._bar is None:
            self._stream.write(f"{stage}: {total_bytes / 1e6:.1f} MB\n")
            self._stream.flush()
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, None

    def __enter__(self) -> "ProgressBars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
