"""Shared by the tests of what is on disk."""

from pathlib import Path

import pytest

from tests.checkpoints import smollm2_folder


@pytest.fixture(scope="session")
def checkpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def smollm2(checkpoint_root: Path) -> Path:
    """The default model, converted."""
    return smollm2_folder(checkpoint_root)
