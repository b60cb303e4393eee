"""argv -> a verb and overrides, and how errors look to a person. Imports nothing heavy.

What a flag means is in ``flags.py``; what a verb does is in ``commands/``.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from vllm_mlx import __version__
from vllm_mlx.errors import ConfigError, UsageError, VllmMlxError
from vllm_mlx.flags import FLAGS, Flag, FlagError, quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from vllm_mlx.model.blas import BlasReport

LATER = {
    "bench": "benchmarking from the command line",
    "bench-serve": "benchmarking from the command line",
    "bench-detok": "benchmarking from the command line",
    "bench-kv-cache": "benchmarking from the command line",
    "model": "converting and registering models (see `vllm-mlx models`)",
}

# Hydra's own flags -> how many words follow.
HYDRA_FLAGS = {
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-dir", "-cd"), 1),
    **dict.fromkeys(("--config-name", "-cn", "--config-path", "-cp", "--info", "-i"), 1),
    **dict.fromkeys(("--resolve", "--hydra-help", "--shell-completion", "-sc"), 0),
    **dict.fromkeys(("--multirun", "-m", "--run", "-r"), 0),
}

# A dotted key or a group, then a value; only a deletion may do without one.
OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][\w.@/:$-]*=|~[A-Za-z_]")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and leave. Exit codes: 0, 1 (configuration, model), 2 (usage)."""
    words = list(sys.argv[1:] if argv is None else argv)
    main_errors(lambda: run(words))


def main_errors(action: Callable[[], int]) -> NoReturn:
    """Leave with the exit code of ``action``, or say in one line why not."""
    try:
        sys.exit(action())
    except UsageError as error:
        leave(str(error), 2)
    except VllmMlxError as error:
        if traceback_wanted():
            raise
        leave(str(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `vllm-mlx --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def leave(message: str, code: int) -> NoReturn:
    print(f"vllm-mlx: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def traceback_wanted() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def run(words: list[str]) -> int:
    """Dispatch on the first word. Returns the exit code."""
    if any(word in ("-h", "--help") for word in words):
        return show_help()
    if words[:1] == ["--version"]:
        print(f"vllm-mlx {__version__}")
        return 0
    verb, rest = split_verb(words)
    return VERBS[verb](rest)


def show_help() -> int:
    from vllm_mlx.usage import usage

    print(usage())
    return 0


def split_verb(words: list[str]) -> tuple[str, list[str]]:
    """The verb, and the words that follow it; `serve` where none is given."""
    if not words or is_option(words[0]) or is_override(words[0]):
        return "serve", words
    first, rest = words[0], words[1:]
    if first in LATER:
        raise UsageError(f"`{first}` does not exist yet: {LATER[first]}")
    if first not in VERBS:
        near = get_close_matches(first, VERBS, n=1)
        meant = near[0] if near else f"serve {first}"
        raise UsageError(f"unknown verb '{first}': did you mean `vllm-mlx {meant}`?")
    return first, rest


def is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def is_override(word: str) -> bool:
    """``key=value``, ``+key=value`` or ``~key``, and not a path that happens to contain ``=``."""
    return bool(OVERRIDE.match(word)) and not os.path.exists(word)


def serve_words(words: list[str]) -> list[str]:
    """The words of `serve` as Hydra reads them. Raises UsageError."""
    waiting, model = deque(words), ""
    ours: list[str] = []
    theirs: list[str] = []
    while waiting:
        word = waiting.popleft()
        if is_option(word):
            name, equals, inline = word.partition("=")
            value = inline if equals else None
            if name in HYDRA_FLAGS:
                theirs += [word, *hydra_argument(name, value, waiting)]
            else:
                ours += flag_overrides(find_flag(name), value, waiting)
        elif is_override(word):
            theirs.append(word)
        elif model:
            raise UsageError(f"one MODEL at a time: '{model}' and '{word}'")
        else:
            model = word
    return [*(["model=auto", model_path(model)] if model else []), *ours, *theirs]


def model_path(model: str) -> str:
    expanded = os.path.expanduser(model) if model.startswith("~") else model
    return f"model.path={quoted(expanded)}"


def find_flag(name: str) -> Flag:
    for flag in FLAGS:
        if flag.name == name:
            return flag
    near = get_close_matches(name, [*(flag.name for flag in FLAGS), *HYDRA_FLAGS], n=1)
    hint = f"did you mean {near[0]}?" if near else "see `vllm-mlx --help`"
    raise UsageError(f"unknown flag {name}: {hint}")


def flag_overrides(flag: Flag, value: str | None, waiting: deque[str]) -> list[str]:
    """What one flag writes into the configuration; takes its argument from ``waiting``."""
    if flag.translate is None:
        raise UsageError(f"{flag.name} is refused: {flag.missing} does not exist yet")
    if flag.value is None and value is not None:
        raise UsageError(f"{flag.name} takes no value")
    if flag.value is not None and value is None:
        value = take_argument(flag.spelled, waiting)
    try:
        return flag.translate(value or "")
    except FlagError as error:
        raise UsageError(f"{flag.name} {error}") from None


def take_argument(spelled: str, waiting: deque[str]) -> str:
    if not waiting or waiting[0].startswith("--"):
        raise UsageError(f"{spelled}: the value is missing")
    return waiting.popleft()


def hydra_argument(name: str, value: str | None, waiting: deque[str]) -> list[str]:
    return [take_argument(name, waiting)] if HYDRA_FLAGS[name] and value is None else []


def serve(words: list[str]) -> int:
    cfg = compose(serve_words(words))
    if cfg is None:  # --cfg, -sc, --info: Hydra has answered
        return 0
    blas = place_blas()
    from vllm_mlx.commands.serve import serve as run_server

    return run_server(cfg, blas)


def place_blas() -> "BlasReport":
    """Must run before the first import of mlx, and therefore before a command is imported."""
    from vllm_mlx.model.blas import preload_openblas

    return preload_openblas()


def compose(words: list[str]) -> "DictConfig | None":
    """Hydra's turn: the composed tree, or None if it was only asked to print something."""
    refuse_sweep(words)
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    found: list[DictConfig] = []
    modes: set[RunMode | None] = set()

    @hydra.main(version_base="1.3", config_path="pkg://vllm_mlx.conf", config_name="server")
    def take(cfg: "DictConfig") -> None:
        found.append(cfg)
        modes.add(HydraConfig.get().mode)

    run_hydra(take, words)
    if RunMode.MULTIRUN in modes:
        raise ConfigError("a server cannot be swept", "hydra.mode")
    return found[0] if found else None


def refuse_sweep(words: list[str]) -> None:
    sweeping = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
    for word in words:
        if word in sweeping:
            raise UsageError(f"a server cannot be swept: leave out {word}")


def run_hydra(take: Callable[[], None], words: list[str]) -> None:
    """Call a Hydra application on ``words`` with its errors raised here, as ConfigError."""
    wanted, before = traceback_wanted(), os.environ.get("HYDRA_FULL_ERROR")
    sys.argv[1:] = words
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, do not print: the wording is ours
    try:
        take()
    except Exception as error:
        if wanted:
            raise
        raise explain(error) from error
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def explain(error: Exception) -> ConfigError:
    """Hydra's, OmegaConf's or YAML's complaint as one line."""
    from hydra.errors import OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error, OverrideParseException):
        return ConfigError(str(error).splitlines()[0], error.override)
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return unknown_key(cause.full_key, list(cause.parent_node or ()))
    if isinstance(cause, Exception) and getattr(cause, "full_key", None):
        return ConfigError(str(cause).splitlines()[0], str(getattr(cause, "full_key", "")))
    text = str(error).split("Config search path:")[0].strip()
    return ConfigError(re.sub(r"\n\s*\n?", "; ", re.sub(r"\n\t", ", ", text)).replace(":,", ":"))


def unknown_key(path: str, siblings: list[object]) -> ConfigError:
    parent, _, key = path.rpartition(".")
    near = get_close_matches(key, [str(name) for name in siblings], n=1)
    meant = f"; did you mean {parent}.{near[0]}?".replace(" .", " ") if near else ""
    return ConfigError(f"no such key{meant}", path)


def doctor(words: list[str]) -> int:
    if len(words) > 1 or any(is_option(word) for word in words):
        raise UsageError("usage: vllm-mlx doctor [MODEL]")
    blas = place_blas()
    from vllm_mlx.commands.doctor import doctor as examine

    return examine(words[0] if words else None, blas)


def models(words: list[str]) -> int:
    from vllm_mlx.commands.models import models as run_models

    return run_models(words)


def download(words: list[str]) -> int:
    return models(["fetch", *words])


VERBS: dict[str, Callable[[list[str]], int]] = {
    "serve": serve,
    "doctor": doctor,
    "models": models,
    "download": download,
}
