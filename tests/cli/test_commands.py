"""The start-up plan, `doctor` and `models`, without a server."""

from pathlib import Path

import pytest

from tests.conftest import Compose
from vllm_mlx.assembly import load_settings
from vllm_mlx.commands import doctor as doctor_command
from vllm_mlx.commands.doctor import doctor, stopping
from vllm_mlx.commands.machine import blas_text, gib
from vllm_mlx.commands.models import models
from vllm_mlx.commands.plan import start_up_plan
from vllm_mlx.core.card import EngineStatus, ModelCard
from vllm_mlx.errors import ModelError, UsageError
from vllm_mlx.model.blas import BlasReport, preload_openblas

CARD = ModelCard(
    id="some-model",
    created=0,
    architecture="llama",
    mode="token_rows",
    mode_reason="same logits as the plain forward",
    dtype="float32",
    context_tokens=8192,
    vocab_tokens=10,
    weights_bytes=3 * 2**30,
    kv_bytes_per_token=1024,
    notes=("beware",),
)
STATUS = EngineStatus(
    state="ready",
    running=0,
    waiting=0,
    steps=0,
    preemptions=0,
    kv_used_tokens=0,
    kv_capacity_tokens=2**20,
    kv_allocated_bytes=0,
    prompt_tokens_total=0,
    completion_tokens_total=0,
)
SLOW = BlasReport(found=False, library=None, advice="apt-get install something")


def test_the_plan_has_every_row(compose_config: Compose) -> None:
    settings = load_settings(compose_config())
    plan = start_up_plan(CARD, STATUS, settings, SLOW, "http://127.0.0.1:8000")
    for words in (
        "some-model (llama), context 8,192 tokens",
        "token rows: same logits as the plain forward",
        "weights 3.00 GiB; KV pool up to 1.00 GiB = 1,048,576 tokens",
        "blocks of 16",
        "apt-get install something",
        "beware",
        "http://127.0.0.1:8000",
    ):
        assert words in plan


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, "0.0 KiB"), (1536, "1.5 KiB"), (37 * 2**20, "37 MiB"), (3 * 2**29, "1.50 GiB")],
)
def test_bytes_for_a_person(count: int, words: str) -> None:
    assert gib(count) == words


def test_blas_is_named_with_its_library_or_the_way_to_get_it() -> None:
    assert "/lib/openblas.so" in blas_text(BlasReport(True, "/lib/openblas.so", ""))
    assert "Accelerate" in blas_text(SLOW) or "apt-get" in blas_text(SLOW)


def test_doctor_passes_a_machine_that_can_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(None, preload_openblas()) == 0
    out = capsys.readouterr().out
    for row in ("platform", "versions", "backend", "BLAS", "attention", "memory", "disk", "speed"):
        assert f"\n  {row}" in out
    assert "can serve" in out


def test_doctor_says_what_stops_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(str(tmp_path), preload_openblas()) == 1
    assert "has no config.json" in capsys.readouterr().out


def test_doctor_fails_where_mlx_cannot_compute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> float:
        raise RuntimeError("no device")

    monkeypatch.setattr(doctor_command, "product_gflops", broken)
    assert doctor(None, preload_openblas()) == 1
    assert "problem: MLX cannot compute here: no device" in capsys.readouterr().out


def test_models_list_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert models([]) == 0
    plain = capsys.readouterr().out
    assert models(["list"]) == 0
    assert capsys.readouterr().out == plain


def test_models_tells_how_to_fetch_what_is_not_here() -> None:
    with pytest.raises(ModelError, match="`vllm-mlx models fetch nobody/nothing` gets it"):
        models(["inspect", "nobody/nothing"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch"], "MODEL"),
        (["forget", "x"], "invalid choice"),
        (["fetch", "a/b", "--mllm"], "--mllm is refused"),
        (["fetch", "a/b", "--retry", "1"], "--retry"),
    ],
)
def test_models_usage_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        models(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_memory_stops_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    from vllm_mlx.commands.models import local_folder
    from vllm_mlx.model.inspect import inspect_model

    found = inspect_model(local_folder("embedded"), on_cpu=True)
    assert stopping(found, 2**40) is None
    assert "of memory" in str(stopping(found, found.run_bytes))
    assert "no architecture" in str(stopping(found._replace(is_runnable=False), 2**40))
    assert "damaged" in str(stopping(found._replace(is_whole=False), 2**40))
