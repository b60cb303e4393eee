"""Shared by the tests of whole runs: checkpoints on disk, built once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The engine survives a failed step by running it again: right answers, but a bug."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
