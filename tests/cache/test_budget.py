"""How much memory keys and values get."""

import pytest

from vllm_mlx.cache import budget
from vllm_mlx.cache.budget import AUTO_SHARE, GIB, plan_memory
from vllm_mlx.errors import ModelError


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A computer of 16 GiB, 10 of them free."""
    monkeypatch.setattr(budget, "device_memory_bytes", lambda: 16 * GIB)
    monkeypatch.setattr(budget, "available_memory_bytes", lambda: 10 * GIB)
    monkeypatch.setattr(budget, "_is_cpu", lambda: True)
    return monkeypatch


def test_auto_takes_a_share_of_what_is_free(device: pytest.MonkeyPatch) -> None:
    plan = plan_memory("auto", 2 * GIB, 1024, 16)
    assert plan.total_bytes == 16 * GIB
    assert plan.kv_bytes == int(10 * GIB * AUTO_SHARE)
    assert plan.blocks == plan.kv_bytes // (16 * 1024)
    assert plan.kv_bytes + plan.transient_bytes == 10 * GIB


def test_on_a_gpu_the_weights_are_taken_off(device: pytest.MonkeyPatch) -> None:
    device.setattr(budget, "_is_cpu", lambda: False)
    plan = plan_memory("auto", 6 * GIB, 1024, 16)
    assert plan.kv_bytes == int(10 * GIB * AUTO_SHARE)
    assert plan.weights_bytes == 6 * GIB


def test_a_number_is_taken_at_its_word(device: pytest.MonkeyPatch) -> None:
    plan = plan_memory(0.5, 2 * GIB, 1000, 16)
    assert plan.kv_bytes == GIB // 2
    assert plan.blocks == GIB // 2 // 16000
    assert plan_memory(12, 0, 1024, 16).transient_bytes == 0  # more than is free: no reserve


def test_too_little_is_said_at_once(device: pytest.MonkeyPatch) -> None:
    smallest = 256 * 1024 / GIB
    assert plan_memory(smallest, 0, 1024, 16).blocks == 16
    with pytest.raises(ModelError, match=r"hold 240 tokens, less than 256.*cache\.memory_gib"):
        plan_memory(smallest * 0.999, 0, 1024, 16)
    with pytest.raises(ModelError, match="hold 0 tokens"):
        plan_memory("auto", 0, 1 << 40, 16)


def test_a_model_that_keeps_nothing_by_token_still_has_a_plan(device: pytest.MonkeyPatch) -> None:
    assert plan_memory(1, 0, 0, 16).blocks == GIB // 16


def test_this_machine_has_memory() -> None:
    assert 0 < budget.available_memory_bytes() <= budget.device_memory_bytes()
