"""Imports point downward, and a third-party package is used only in the rooms that own it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vllm_mlx"
FILES = sorted(PACKAGE.rglob("*.py"))

LOW = {"core", "errors", "settings"}  # nouns, errors and limits: for everybody above them

# A room (folder or module of vllm_mlx) -> the rooms it may import, besides itself.
DOWN: dict[str, set[str]] = {
    "core": set(),
    "errors": set(),
    "settings": set(),
    "log": set(),
    "flags": set(),
    "usage": {"flags"},
    "wire": {"errors"},
    "metrics": {"core"},
    "kernels": LOW,
    "model": LOW,
    "cache": LOW | {"kernels"},
    "scheduler": LOW | {"cache"},
    "runner": LOW | {"cache", "kernels", "model"},
    "engine": LOW | {"scheduler", "cache", "runner", "kernels", "model", "metrics"},
    "parsers": LOW,
    "dialect": LOW | {"wire"},
    "api": LOW | {"dialect", "wire", "metrics", "engine.base"},
    "assembly": LOW | {"api", "engine", "scheduler", "cache", "runner", "model", "metrics"},
    "commands": LOW | {"assembly", "model", "kernels", "log", "cache.budget", "cache.disk_offline"},
    "cli": {"commands", "flags", "usage", "errors", "model.blas"},
    "__main__": {"cli"},
    "__init__": set(),
}

# A third-party package -> the rooms or files that may import it. msgspec: anywhere.
OWNERS: dict[str, set[str]] = {
    "falcon": {"api"},
    "uvicorn": {"commands/serve.py"},
    "hydra": {"cli.py", "flags.py", "assembly.py", "commands"},
    "omegaconf": {"cli.py", "assembly.py", "commands"},
    "mlx": {"runner", "kernels", "cache", "engine", "model", "commands/machine.py"},
    "mlx_lm": {"runner", "kernels", "model"},
    "numpy": {"runner", "cache", "engine", "model"},
    "transformers": {"model", "runner"},
    "tokenizers": {"model", "runner"},
    "huggingface_hub": {"model"},
    "gguf": {"model"},
    "jinja2": {"model"},
    "tqdm": {"model"},
    "prometheus_client": {"metrics.py", "api"},
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of every import, late ones and those for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            if node.module == "vllm_mlx":
                yield from (f"vllm_mlx.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[str]:
    return list(imported(ast.parse(path.read_text(encoding="utf-8"))))


def upward(room: str, names: list[str]) -> list[str]:
    """The imports of ours that ``room`` may not make."""
    wrong = []
    for name in names:
        if not name.startswith("vllm_mlx."):
            continue
        target = name.removeprefix("vllm_mlx.")
        allowed = DOWN[room] | {room, "__version__"}
        if not any(target == may or target.startswith(f"{may}.") for may in allowed):
            wrong.append(name)
    return wrong


def trespassing(relative: str, names: list[str]) -> list[str]:
    """The third-party imports that this file may not make."""
    wrong = []
    for name in names:
        package = name.split(".")[0]
        if package in ("vllm_mlx", "msgspec") or package in sys.stdlib_module_names:
            continue
        owners = OWNERS.get(package, set())
        if not any(relative == owner or relative.startswith(f"{owner}/") for owner in owners):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    assert room_of(path) in DOWN, "a new room: give it its place in DOWN"
    assert upward(room_of(path), imports_of(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_party_stays_in_its_room(path: Path) -> None:
    assert trespassing(str(path.relative_to(PACKAGE)), imports_of(path)) == []


def test_the_tables_have_no_cycle() -> None:
    def reachable(room: str, seen: frozenset[str]) -> None:
        assert room not in seen, f"cycle through {room}"
        for below in DOWN.get(room, set()):
            reachable(below.split(".")[0], seen | {room})

    for room in DOWN:
        reachable(room, frozenset())


def test_the_checks_can_fail() -> None:
    assert upward("scheduler", ["vllm_mlx.api.app", "vllm_mlx.core.card"]) == ["vllm_mlx.api.app"]
    assert upward("api", ["vllm_mlx.engine.engine"]) == ["vllm_mlx.engine.engine"]
    assert upward("api", ["vllm_mlx.engine.base"]) == []
    assert trespassing("scheduler/serial.py", ["mlx.core", "json"]) == ["mlx.core"]
    assert trespassing("api/app.py", ["requests"]) == ["requests"]


def test_every_third_party_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_").removesuffix("_core")
        for line in project["dependencies"]
    }
    used = {name.split(".")[0] for path in FILES for name in imports_of(path)}
    third = used - set(sys.stdlib_module_names) - {"vllm_mlx"}
    assert third <= declared


def test_the_command_line_starts_lean() -> None:
    """Shell completion and --help pay for every import at module level."""
    for name in ("cli.py", "flags.py", "usage.py", "errors.py", "__init__.py"):
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        top = ast.Module(body=[n for n in tree.body if not isinstance(n, ast.If)], type_ignores=[])
        at_top = [n for n in top.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = [found for node in at_top for found in imported(node)]
        assert not [n for n in names if n.split(".")[0] in OWNERS], name
