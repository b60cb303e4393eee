"""The seam: models that call mlx-lm's attention reach a cache that attends by itself."""

import sys
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import base

from vllm_mlx.kernels import attention


class RecordingCache:
    """Attends by adding one."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Any]] = []

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        self.calls.append((scale, sinks))
        return queries + 1


QUERIES = mx.random.normal((1, 2, 3, 4), key=mx.random.key(0))


def test_a_cache_that_attends_is_asked() -> None:
    cache, sinks = RecordingCache(), mx.zeros((2,))
    out = attention.dispatch_attention(
        QUERIES, None, None, cache, scale=0.5, mask=None, sinks=sinks
    )
    assert mx.array_equal(out, QUERIES + 1)
    assert cache.calls == [(0.5, sinks)]


@pytest.mark.parametrize("cache", [None, object()])
def test_any_other_gets_the_original(cache: object) -> None:
    out = attention.dispatch_attention(QUERIES, QUERIES, QUERIES, cache, scale=0.5, mask="causal")
    expected = mx.fast.scaled_dot_product_attention(
        QUERIES, QUERIES, QUERIES, scale=0.5, mask="causal"
    )
    assert mx.array_equal(out, expected)


def test_every_model_file_sees_the_dispatcher() -> None:
    from mlx_lm.models import llama

    assert base.scaled_dot_product_attention is attention.dispatch_attention
    assert llama.scaled_dot_product_attention is attention.dispatch_attention


def test_files_imported_earlier_are_rebound(monkeypatch: pytest.MonkeyPatch) -> None:
    early = type(sys)("mlx_lm.models.early")
    other = type(sys)("elsewhere.early")
    early.scaled_dot_product_attention = attention._original  # type: ignore[attr-defined]
    other.scaled_dot_product_attention = attention._original  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, early.__name__, early)
    monkeypatch.setitem(sys.modules, other.__name__, other)
    attention.install()
    assert early.scaled_dot_product_attention is attention.dispatch_attention
    assert other.scaled_dot_product_attention is attention._original
    attention.install()  # and again: no chain of dispatchers
    assert base.scaled_dot_product_attention is attention.dispatch_attention
    assert attention._original is not attention.dispatch_attention
