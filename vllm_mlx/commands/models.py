"""`vllm-mlx models`: list, inspect, fetch. What a checkpoint is, is known in ``model/``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vllm_mlx.commands.machine import gib, is_on_cpu, usable_memory_bytes
from vllm_mlx.errors import ModelError, UsageError
from vllm_mlx.model.hub import Download
from vllm_mlx.model.inspect import describe, inspect_model
from vllm_mlx.model.known import list_models
from vllm_mlx.model.progress import ProgressBars
from vllm_mlx.model.resolve import HUB_ID, resolve_model

ABSENT = {"--mllm": "image and video input"}


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line, told by ``cli.py``."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def build_parser() -> Parser:
    parser = Parser(prog="vllm-mlx models", add_help=False, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=False)
    verbs.add_parser("list", add_help=False)
    inspect = verbs.add_parser("inspect", add_help=False, allow_abbrev=False)
    fetch = verbs.add_parser("fetch", add_help=False, allow_abbrev=False)
    for verb in (inspect, fetch):
        verb.add_argument("model", metavar="MODEL")
        verb.add_argument("--revision")
    fetch.add_argument("--timeout", type=float, default=300.0)
    fetch.add_argument("--retries", type=int, default=3)
    fetch.add_argument("--trust-remote-code", action="store_true")
    return parser


def models(words: Sequence[str]) -> int:
    """Run one of the three verbs; `list` where none is given. Raises UsageError, ModelError."""
    for word in words:
        if word in ABSENT:
            raise UsageError(f"{word} is refused: {ABSENT[word]} does not exist yet")
    asked = build_parser().parse_args(words)
    if asked.verb == "inspect":
        return inspect(asked.model, asked.revision)
    if asked.verb == "fetch":
        download = Download(timeout_seconds=asked.timeout, retries=asked.retries)
        return fetch(asked.model, asked.revision, download, asked.trust_remote_code)
    return show_list()


def show_list() -> int:
    found = list_models()
    for model in found:
        note = f"  ({model.note})" if model.note else ""
        print(f"{model.name}  {model.kind}, {gib(model.size_bytes)}{note}")
    if not found:
        print("no model on this machine: `vllm-mlx models fetch ORGANISATION/NAME` gets one")
    return 0


def inspect(name: str, revision: str | None) -> int:
    """What is on disk; nothing is downloaded."""
    found = inspect_model(local_folder(name, revision), on_cpu=is_on_cpu())
    print("\n".join(describe(found, usable_memory_bytes())))
    return 0


def local_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model that is on this machine; a GGUF file is converted first.

    Raises ModelError, which says how to fetch it if that would help.
    """
    offline = Download(offline=True)
    try:
        with ProgressBars() as progress:
            return resolve_model(name, revision=revision, download=offline, progress=progress)
    except ModelError as error:
        if HUB_ID.fullmatch(name) and not Path(name).exists():
            raise ModelError(f"{error}; `vllm-mlx models fetch {name}` gets it") from error
        raise


def fetch(name: str, revision: str | None, download: Download, trust_remote_code: bool) -> int:
    with ProgressBars() as progress:
        folder = resolve_model(
            name,
            revision=revision,
            download=download,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    print(folder)
    return 0
