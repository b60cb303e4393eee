"""Composed configuration -> checked settings -> running parts: the only room that may import every
other one, and the only caller of ``hydra.utils.instantiate``. Values and limits are not here.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import msgspec.inspect
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vllm_mlx.api.app import Application, create_app
from vllm_mlx.engine.base import Engine
from vllm_mlx.errors import ConfigError, VllmMlxError
from vllm_mlx.settings import ServerSettings, Settings


@dataclass(frozen=True)
class Server:
    """What `serve` runs: an ASGI application over an engine, not started yet."""

    settings: ServerSettings
    engine: Engine
    app: Application  # its lifespan starts and stops the engine


def load_settings(cfg: DictConfig) -> ServerSettings:
    """The composed tree as checked values. Raises ConfigError with the path of the first fault."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError("needs a value", error.full_key) from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], error.full_key) from error
    try:
        return msgspec.convert(tree, ServerSettings)
    except msgspec.ValidationError as error:
        raise config_error(str(error)) from error


def config_error(message: str) -> ConfigError:
    """msgspec says ``what - at `$.path` ``; we say the path first, and the choices, if any."""
    what, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    if named := re.fullmatch(r"Object (contains unknown|missing required) field `(.+)`", what):
        problem = "no such key" if named[1] == "contains unknown" else "missing"
        return ConfigError(problem, f"{path}.{named[2]}" if path else named[2])
    if choices := choices_at(path):
        what = f"{what}: choose from {', '.join(choices)}"
    return ConfigError(what, path or None)


def choices_at(path: str) -> list[str]:
    """The values allowed at a dotted path: targets or literals; empty if there is no such list."""
    here = [msgspec.inspect.type_info(ServerSettings)]
    for key in path.split("."):
        nodes = [node for node in here if isinstance(node, msgspec.inspect.StructType)]
        if key == "_target_":
            return [str(node.tag) for node in nodes]
        fields = [field.type for node in nodes for field in node.fields if field.name == key]
        here = [member for kind in fields for member in getattr(kind, "types", (kind,))]
    literals = [kind for kind in here if isinstance(kind, msgspec.inspect.LiteralType)]
    return [str(value) for kind in literals for value in kind.values]


def build_part(node: DictConfig, settings: Settings) -> Any:
    """The object that ``node._target_`` names. Nested settings arrive as their typed Structs.

    Raises what the constructor raised (VllmMlxError), or ConfigError.
    """
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    nested = {name: value for name, value in fields.items() if isinstance(value, Settings)}
    try:
        return instantiate(node, _convert_="all", **nested)
    except InstantiationException as error:
        if isinstance(error.__cause__, VllmMlxError):
            raise error.__cause__ from None
        target = node.get("_target_")
        raise ConfigError(f"cannot build {target}: {error.__cause__ or error}") from error


def build_engine(settings: ServerSettings, cfg: DictConfig) -> Engine:
    """The engine of one model, not started: nothing is read from disk yet."""
    from vllm_mlx.engine.engine import GenerationEngine

    return GenerationEngine(
        build_part(cfg.model, settings.model),
        build_part(cfg.scheduler, settings.scheduler),
        build_part(cfg.cache, settings.cache),
    )


def build_server(settings: ServerSettings, cfg: DictConfig) -> Server:
    """Everything `serve` needs, wired."""
    engine = build_engine(settings, cfg)
    return Server(settings, engine, create_app(engine, settings.api))
