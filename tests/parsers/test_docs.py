"""The page about parsers tells the formats that there are."""

from pathlib import Path

from docs.make_parsers import PAGE, filled


def test_the_tables_are_those_of_the_formats() -> None:
    page = Path(PAGE).read_text(encoding="utf-8")
    assert page == filled(page), "run python docs/make_parsers.py"
    assert "`qwen3_coder`" in page
    assert "`deepseek_r1`" in page
