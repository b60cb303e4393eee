"""Shared by the tests of whole runs: checkpoints on disk, built once a session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")
