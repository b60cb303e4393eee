"""Rules of the house that are cheap to check: docstrings, names, no module-level mutable state."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vllm_mlx"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

NAMELESS = {"utils", "util", "helpers", "common", "misc", "manager"}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_is_in_the_room(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_without_a_name(path: Path) -> None:
    assert path.stem not in NAMELESS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_rebound_through_global(path: Path) -> None:
    assert not [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Global)]


def test_recipes_are_seen_through_the_link() -> None:
    assert (ROOT / "conf" / "recipe").is_symlink()
    assert (ROOT / "conf" / "recipe").resolve() == ROOT / "recipes"
    assert (ROOT / "conf" / "__init__.py").read_text(encoding="utf-8") == ""


def test_every_recipe_is_documented() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    recipes = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        assert f"recipe={recipe}" in text, recipe
