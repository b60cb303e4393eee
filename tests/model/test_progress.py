"""Bars on a terminal, lines elsewhere."""

import io

from vllm_mlx.model.progress import ProgressBars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_a_stage_where_nobody_watches() -> None:
    stream = io.StringIO()
    with ProgressBars(stream) as bars:
        for done in (0, 1_000_000, 2_000_000, 2_000_000):
            bars("converting", done, 2_000_000)
        bars("loading weights", 500_000, 500_000)
    assert stream.getvalue() == "converting: 2.0 MB\nloading weights: 0.5 MB\n"


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    with ProgressBars(stream) as bars:
        bars("loading weights", 1_000_000, 4_000_000)
        bars("loading weights", 4_000_000, 4_000_000)
    assert "loading weights: 100%" in stream.getvalue()


def test_a_stage_that_breaks_off_is_closed() -> None:
    stream = Terminal()
    with ProgressBars(stream) as bars:
        bars("converting", 1, 4)
        bars("loading weights", 4, 4)
    assert "converting:  25%" in stream.getvalue()
