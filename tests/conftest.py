"""Shared by every folder: composing the real configuration. Keep it small."""

from collections.abc import Callable, Iterator

import pytest
from hydra import compose, initialize_config_module
from hypothesis import settings
from omegaconf import DictConfig

from vllm_mlx.model.blas import preload_openblas

preload_openblas()  # before any test imports mlx

# Two busy cores say nothing about the code: no limit on the time of an example.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="session")
def compose_config() -> Iterator[Compose]:
    """``compose_config("cache=none", ...)``: the tree of server.yaml with these overrides."""
    with initialize_config_module("vllm_mlx.conf", version_base="1.3"):
        yield lambda *overrides: compose("server", overrides=list(overrides))
