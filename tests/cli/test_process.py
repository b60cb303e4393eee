"""The installed command in a process of its own: output, exit codes, completion, files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("vllm-mlx")


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


WRONG = [
    (["api.prot=1"], 1, "api.prot: no such key; did you mean api.port?"),
    (["colour=1"], 1, "colour: no such key"),
    (["api.port=70000"], 1, "api.port: Expected `int` <= 65535"),
    (["api.port=eight"], 1, "api.port: Expected `int`, got `str`"),
    (["cache._target_=os.system"], 1, "cache._target_: Invalid value 'os.system'"),
    (["+api.colour=red"], 1, "api.colour: no such key"),
    (["model=auto"], 1, "model.path: "),
    (["api=shared"], 1, "api.api_key: "),
    (["model=nope"], 1, "Could not find 'model/nope'"),
    (["recipe=nope"], 1, "Could not find 'recipe/nope'"),
    (["api.port=[1"], 1, "api.port=[1"),
    (["--config-dir", "nowhere"], 1, "nowhere"),
    (["hydra.mode=MULTIRUN"], 2, "a server cannot be swept"),
    (["-m", "api.port=1,2"], 2, "a server cannot be swept"),
    (["api.port=1,2"], 1, "api.port"),
    (["hydra.mode=multirun"], 1, "hydra.mode"),
    (["--prot", "1"], 2, "did you mean --port?"),
    (["--mllm"], 2, "--mllm is refused"),
    (["bench", "MODEL"], 2, "`bench` does not exist yet"),
    (["srve"], 2, "did you mean `vllm-mlx serve`?"),
    (["doctor", "--fast"], 2, "usage: vllm-mlx doctor [MODEL]"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_what_is_wrong_is_one_line(
    words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path, TMPDIR=str(tmp_path.parent))
    assert (done.stdout, done.returncode) == ("", code)
    assert done.stderr.startswith("vllm-mlx: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_option_file_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine" / "cache").mkdir(parents=True)
    (tmp_path / "mine" / "cache" / "odd.yaml").write_text("a: [1\nb: 2\n")
    done = run("--config-dir", "mine", "cache=odd", cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "odd.yaml" in done.stderr
    assert "line 2" in done.stderr


@pytest.mark.parametrize("how", [["--config-dir", "mine"], ["hydra.searchpath=[file://mine]"]])
def test_options_of_ones_own(how: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "cache").mkdir(parents=True)
    (tmp_path / "mine" / "cache" / "big.yaml").write_text(
        "defaults: [paged, _self_]\nblock_tokens: 64\n"
    )
    done = run(*how, "cache=big", "--cfg", "job", "-p", "cache.block_tokens", cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("64", "", 0)


def test_flags_keys_and_cfg_job_mix(tmp_path: Path) -> None:
    words = ["serve", "it's a=b", "--port", "8055", "cache=none", "--cfg", "job"]
    done = run(*words, "-p", "model.path", cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("it's a=b", 0)
    done = run(*words, "-p", "api.port", cwd=tmp_path)
    assert done.stdout.strip() == "8055"
    assert list(tmp_path.iterdir()) == []


def test_completion_installs_and_answers(tmp_path: Path) -> None:
    script = run("-sc", "install=bash", cwd=tmp_path).stdout
    assert "vllm-mlx" in script
    line = "vllm-mlx cache="
    answer = run("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert {"cache=paged", "cache=none"} <= set(answer.stdout.split())


def test_help_and_version(tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path).stdout
    assert text.index("\nVerbs") < text.index("\nNetwork")
    assert run("serve", "--help", cwd=tmp_path).stdout == text
    assert run("--version", cwd=tmp_path).stdout.startswith("vllm-mlx 0.")


def test_a_full_traceback_on_request(tmp_path: Path) -> None:
    done = run("api.prot=1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, vllm_mlx.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    heavy = {"mlx", "mlx_lm", "falcon", "uvicorn", "transformers", "numpy", "hydra", "omegaconf"}
    assert not heavy & set(done.stdout.split())
    assert "vllm_mlx" in done.stdout.split()
