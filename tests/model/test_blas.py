"""OpenBLAS before MLX, in processes of their own: a library cannot be unloaded."""

import subprocess
import sys

import pytest

from vllm_mlx.model import blas

START = "import sys; from vllm_mlx.model.blas import preload_openblas, openblas_threads\n"


def run(code: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def has_openblas() -> bool:
    return run("print(preload_openblas().found)") == ["True"]


def test_mlx_is_not_imported() -> None:
    assert run("preload_openblas(); print('mlx' in sys.modules)") == ["False"]


def test_report_and_threads(has_openblas: bool) -> None:
    code = (
        "print(openblas_threads())\n"
        "first, second = preload_openblas(), preload_openblas()\n"
        "print(first == second, first.found, bool(first.library), bool(first.advice))\n"
        "print(openblas_threads())"
    )
    before, report, after = run(code, OPENBLAS_NUM_THREADS="1")
    assert before == "None"
    if has_openblas:
        assert (report, after) == ("True True True False", "1")
    else:
        assert (report, after) == ("True False False True", "None")


def test_products_really_go_through_it(has_openblas: bool) -> None:
    """Many times faster than the reference library; here at least twice."""
    if not has_openblas or not sys.platform.startswith("linux"):
        pytest.skip("no OpenBLAS on this machine")
    code = (
        "import time\n"
        "if sys.argv[0] == '-c' and {preload}: preload_openblas()\n"
        "import mlx.core as mx\n"
        "if not mx.default_device() == mx.Device(mx.cpu): print(1); sys.exit()\n"
        "a = mx.ones((384, 384)); mx.eval(a, a @ a)\n"
        "start = time.perf_counter(); mx.eval(a @ a); print(time.perf_counter() - start)"
    )
    times = [
        min(float(run(code.format(preload=preload), OPENBLAS_NUM_THREADS="1")[0]) for _ in range(2))
        for preload in (True, False)
    ]
    assert times[0] * 2 < times[1] or times == [1, 1]


def test_too_late_is_said(has_openblas: bool) -> None:
    code = "import mlx.core\nprint(preload_openblas().found, preload_openblas().advice)"
    assert run(code) == [f"False {blas.TOO_LATE}"]


def test_other_systems_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert blas.preload_openblas() == blas.BlasReport(False, None, "")


def test_absence_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(blas, "_is_active", lambda: False)
    monkeypatch.setattr(blas, "_candidates", lambda: iter(["libnothing.so.0", "libm.so.6"]))
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert blas.preload_openblas() == blas.BlasReport(False, None, blas.ADVICE)
    assert "libopenblas0-pthread" in blas.ADVICE
