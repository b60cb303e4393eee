"""Writes the tables of docs/parsers.md from the formats: python docs/make_parsers.py"""

import re
from pathlib import Path

from vllm_mlx.parsers.formats.description import ReasoningFormat, ToolFormat
from vllm_mlx.parsers.formats.more_tools import TOOL_FORMATS
from vllm_mlx.parsers.formats.reasoning import REASONING_FORMATS

PAGE = Path(__file__).parent / "parsers.md"


def row(one: ToolFormat | ReasoningFormat) -> str:
    names = ", ".join(f"`{name}`" for name in one.names)
    wire = one.wire.replace("|", "\\|")
    return f"| {names} | {one.families} | {wire} |"


def table(kind: str) -> str:
    formats = TOOL_FORMATS if kind == "tools" else REASONING_FORMATS
    return "\n".join(["| names | families | wire format |", "|---|---|---|", *map(row, formats)])


def filled(page: str) -> str:
    """The page with each table between its marks written anew."""
    return re.sub(
        r"(<!-- (tools|reasoning) -->\n).*?(\n<!-- end -->)",
        lambda found: found[1] + table(found[2]) + found[3],
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
