"""What the settings refuse, and that the refusal names the dotted path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Compose
from vllm_mlx.assembly import load_settings
from vllm_mlx.errors import ConfigError

REFUSED = [
    ("api.port=70000", "api.port"),
    ("api.port=-1", "api.port"),
    ("api.port=eight", "api.port"),
    ("api.port=80.5", "api.port"),
    ("api.port=null", "api.port"),
    ("api.max_n=0", "api.max_n"),
    ("api.aliases=[1]", "api.aliases[0]"),
    ("api.strict=1", "api.strict"),
    ("api.drain_seconds=inf", "api.drain_seconds"),
    ("api.drain_seconds=-1", "api.drain_seconds"),
    ("api.keepalive_seconds=nan", "api.keepalive_seconds"),
    ("api.keepalive_seconds=inf", "api.keepalive_seconds"),
    ("api._target_=os.system", "api._target_"),
    ("+api.colour=red", "api.colour"),
    ("log_level=loud", "log_level"),
    ("+colour=red", "colour"),
    ("~log_level", "log_level"),
    ("~api.port", "api.port"),
    ("model._target_=os.system", "model._target_"),
    ("model.path=''", "model.path"),
    ("model.dtype=int8", "model.dtype"),
    ("model.mode=fast", "model.mode"),
    ("model.context_tokens=0", "model.context_tokens"),
    ("model.sampling.temperature=2.1", "model.sampling.temperature"),
    ("model.sampling.top_p=0", "model.sampling.top_p"),
    ("model.download.retries=-1", "model.download.retries"),
    ("+model.download.mirror=x", "model.download.mirror"),
    ("scheduler.max_running=0", "scheduler.max_running"),
    ("scheduler.stretch=inf", "scheduler.stretch"),
    ("scheduler.stretch=0.5", "scheduler.stretch"),
    ("scheduler.target_itl_ms=0", "scheduler.target_itl_ms"),
    ("cache.memory_gib=0", "cache.memory_gib"),
    ("cache.memory_gib=many", "cache.memory_gib"),
    ("cache.block_tokens=0", "cache.block_tokens"),
    ("cache._target_=vllm_mlx.scheduler.serial.SerialScheduler", "cache._target_"),
    ("model.path=${nothing}", "model.path"),
]


@pytest.mark.parametrize(("override", "path"), REFUSED)
def test_refusal_names_the_path_in_one_line(
    override: str, path: str, compose_config: Compose
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(compose_config(override))
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert "$" not in str(caught.value).replace("${", "")


def test_a_wrong_choice_is_answered_with_the_choices(compose_config: Compose) -> None:
    with pytest.raises(ConfigError, match="token_rows"):
        load_settings(compose_config("model.mode=fast"))
    with pytest.raises(ConfigError, match=r"vllm_mlx\.cache\.none\.NoCache"):
        load_settings(compose_config("cache._target_=os.system"))


@given(st.integers(min_value=-(10**6), max_value=10**6))
def test_port_is_accepted_exactly_in_its_range(compose_config: Compose, port: int) -> None:
    cfg = compose_config()
    cfg.api.port = port
    if 0 <= port <= 65535:
        assert load_settings(cfg).api.port == port
    else:
        with pytest.raises(ConfigError, match=r"^api\.port: "):
            load_settings(cfg)
