"""A checkpoint of the Hugging Face hub as a local folder. What is in it is not looked at here."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vllm_mlx.errors import ModelError

PATTERNS = (
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "tiktoken.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "*.jinja",
)
CODE_PATTERNS = ("*.py",)
FIRST_PAUSE_SECONDS = 1.0  # doubled after each failure


class Download(NamedTuple):
    """How to fetch. ``timeout_seconds``: of one connection, without a byte."""

    timeout_seconds: float = 300.0
    retries: int = 3
    offline: bool = False


class HubFiles(NamedTuple):
    """What to fetch: a repository's files that match any of ``patterns``."""

    repo_id: str
    revision: str | None
    patterns: tuple[str, ...]


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """The library reads the timeout of a transfer from its own settings, not from an argument."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DOWNLOAD_TIMEOUT
    constants.HF_HUB_DOWNLOAD_TIMEOUT = max(1, round(seconds))
    try:
        yield
    finally:
        constants.HF_HUB_DOWNLOAD_TIMEOUT = before


def fetch(
    files: HubFiles, download: Download, *, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """The folder of the repository's snapshot, fetched as needed, with a progress bar.

    What was fetched once is not fetched again; a broken transfer is resumed by the next try.
    Raises ModelError that says what is wrong: no such repository, no access, no network.
    """
    pause = FIRST_PAUSE_SECONDS
    for remaining in range(download.retries, -1, -1):
        try:
            return _fetch_once(files, download)
        except Exception as error:  # the library raises its own, its HTTP client's and OSError
            if remaining == 0 or not _is_passing(error):
                raise ModelError(_explain(error, files, download)) from error
        sleep(pause)
        pause *= 2
    raise ModelError(f"'{files.repo_id}' was not fetched: a negative number of retries")


def _fetch_once(files: HubFiles, download: Download) -> Path:
    from huggingface_hub import snapshot_download

    with _timeout(download.timeout_seconds):
        folder = snapshot_download(
            files.repo_id,
            revision=files.revision,
            allow_patterns=list(files.patterns),
            etag_timeout=download.timeout_seconds,
            local_files_only=download.offline,
        )
    return Path(folder)


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_passing(error: BaseException) -> bool:
    """Whether trying again may help."""
    from huggingface_hub import errors

    lasting = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.GatedRepoError,
        errors.HFValidationError,
        errors.OfflineModeIsEnabled,
    )
    chain = _causes(error)
    if any(isinstance(link, lasting) for link in chain):
        return False
    statuses = [status for link in chain if (status := _status(link)) is not None]
    if statuses:
        return any(status >= 500 or status == 429 for status in statuses)
    return any(_is_of_network(link) for link in chain)


def _is_of_network(error: BaseException) -> bool:
    module = type(error).__module__.split(".")[0]
    is_client = module in ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
    return is_client or isinstance(error, ConnectionError | TimeoutError)


def _explain(error: BaseException, files: HubFiles, download: Download) -> str:
    from huggingface_hub import errors

    name = f"'{files.repo_id}'"
    chain = _causes(error)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if has(errors.GatedRepoError):
        return f"{name} is gated: accept its terms on the hub, then set HF_TOKEN"
    if has(errors.RevisionNotFoundError):
        return f"{name} has no revision '{files.revision}'"
    if has(errors.RepositoryNotFoundError):
        return f"{name} is not on the hub, or it is private and HF_TOKEN may not read it"
    if has(errors.HFValidationError):
        return f"{name} is neither a local folder nor a hub id (ORGANISATION/NAME)"
    if download.offline or has(errors.OfflineModeIsEnabled):
        return f"{name} is not on this machine, and downloading is off (offline)"
    if any(_is_of_network(link) for link in chain):
        return (
            f"{name} is not on this machine, and the hub cannot be reached "
            f"({_one_line(chain[-1])}); give a local folder, or check the network"
        )
    return f"{name} cannot be fetched: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
