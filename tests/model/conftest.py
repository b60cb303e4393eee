"""Shared by the tests of what is on disk."""

from pathlib import Path

import pytest

from vllm_mlx.model.blas import preload_openblas

preload_openblas()  # before MLX is imported by what follows, if nothing did so yet

from tests.checkpoints import smollm2_folder  # noqa: E402


@pytest.fixture(scope="session")
def checkpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def smollm2(checkpoint_root: Path) -> Path:
    """The default model, converted."""
    return smollm2_folder(checkpoint_root)
