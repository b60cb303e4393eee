"""The documentation is kept true: generated pages are current, what it names exists."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Compose
from vllm_mlx.cli import serve_words, split_verb
from vllm_mlx.flags import FLAGS, Flag

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    source = DOCS / "make_configuration.py"
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_current(generator: ModuleType) -> None:
    assert text(DOCS / "configuration.md") == generator.main_page(), "run `just docs`"


def test_every_option_is_documented() -> None:
    page = text(DOCS / "configuration.md")
    options = [p for p in (ROOT / "conf").glob("*/*.yaml") if p.parent.name != "recipe"]
    assert len(options) >= 8
    for path in options:
        assert f"`{path.parent.name}={path.stem}`" in page, path


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_documented(flag: Flag) -> None:
    assert f"| `{flag.spelled}` |" in text(DOCS / "configuration.md")


def test_the_tour_names_files_that_exist() -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", text(DOCS / "tour.md")))
    assert len(named) > 20
    missing = [name for name in sorted(named) if not (ROOT / "vllm_mlx" / name).is_file()]
    assert missing == []


def test_the_rooms_page_lists_every_room() -> None:
    package = ROOT / "vllm_mlx"
    rooms = {p.name for p in package.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    rooms |= {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}
    listed = set(re.findall(r"^\| `([a-z]+)` \|", text(DOCS / "rooms.md"), re.MULTILINE))
    assert listed == rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_has_both_commands() -> None:
    page = text(ROOT / "README.md")
    assert "pip install uv && uv run vllm-mlx" in page
    assert "uv run pytest" in page
    assert "libopenblas0-pthread" in page
    assert "uv run pytest" in text(ROOT / ".ci" / "run")


def test_overrides_in_the_readme_compose(compose_config: Compose) -> None:
    """Every `vllm-mlx ...` line of the README is a command line that is understood."""
    command = re.compile(r"^    vllm-mlx ?(.*?)(?:  +#.*)?$", re.MULTILINE)
    lines = command.findall(text(ROOT / "README.md"))
    assert len(lines) >= 5
    for line in lines:
        verb, words = split_verb(shlex.split(line))
        if verb == "serve":
            plain = [w for w in serve_words(words) if w not in ("--cfg", "job")]
            assert compose_config(*plain) is not None, line


def test_pages_name_no_path_of_some_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|root|tmp)/", text(page)), page
