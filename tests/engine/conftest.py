"""Asynchronous tests run on asyncio; the toy's tokenizer is loaded once."""

import pytest

from vllm_mlx.cache.none import NoCache
from vllm_mlx.model.progress import no_progress
from vllm_mlx.runner.base import Loaded
from vllm_mlx.runner.toy import ToyModel


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def toy() -> Loaded:
    return ToyModel(None, 4096).load(NoCache(16, 0.25), no_progress)
