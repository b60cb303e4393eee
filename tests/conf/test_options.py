"""Every option file composes, converts and builds; every recipe changes something."""

import importlib
import importlib.util
import inspect
from importlib.resources import files
from typing import Any, get_args

import msgspec
import pytest
from omegaconf import OmegaConf

from tests.conftest import Compose
from vllm_mlx import settings as declared
from vllm_mlx.assembly import build_part, load_settings
from vllm_mlx.errors import ConfigError
from vllm_mlx.settings import ApiSettings, ServerSettings, Settings

GROUPS = ("model", "scheduler", "cache", "api")
CONF = files("vllm_mlx.conf")

# What a person must say for an option to be complete.
NEEDED = {
    "model=auto": ["model.path=some/folder"],
    "api=shared": ["api.api_key=secret"],
}


def names_in(folder: str) -> list[str]:
    found = [entry.name for entry in (CONF / folder).iterdir() if entry.name.endswith(".yaml")]
    return sorted(name.removesuffix(".yaml") for name in found)


OPTIONS = [f"{group}={name}" for group in GROUPS for name in names_in(group)]
RECIPES = names_in("recipe")
TARGETS = {
    node.__struct_config__.tag: node
    for field in ("model", "scheduler", "cache")
    for node in get_args(inspect.get_annotations(ServerSettings)[field])
}


def test_folders_are_the_groups() -> None:
    folders = {entry.name for entry in CONF.iterdir() if entry.is_dir()} - {"__pycache__"}
    assert folders == {*GROUPS, "recipe"}
    assert set(ServerSettings.__struct_fields__) == {*GROUPS, "log_level"}


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes_and_converts(option: str, compose_config: Compose) -> None:
    group, name = option.split("=")
    cfg = compose_config(option, *NEEDED.get(option, []))
    checked = load_settings(cfg)
    # Converting back gives the composed values: nothing was dropped or replaced.
    assert msgspec.to_builtins(checked) == OmegaConf.to_container(cfg, resolve=True)
    assert getattr(checked, group).__struct_config__.tag == cfg[group]._target_, name


@pytest.mark.parametrize("option", [o for o in OPTIONS if not o.startswith("api")])
def test_option_builds_without_loading(option: str, compose_config: Compose) -> None:
    group, _ = option.split("=")
    cfg = compose_config(option, *NEEDED.get(option, []))
    built = build_part(cfg[group], getattr(load_settings(cfg), group))
    assert f"{type(built).__module__}.{type(built).__qualname__}" == cfg[group]._target_


@pytest.mark.parametrize("option", sorted(NEEDED))
def test_option_names_what_is_missing(option: str, compose_config: Compose) -> None:
    path = NEEDED[option][0].split("=")[0]
    with pytest.raises(ConfigError, match=f"^{path}: ") as caught:
        load_settings(compose_config(option))
    assert caught.value.path == path


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_constructor_takes_exactly_the_settings(target: str) -> None:
    module, _, name = target.rpartition(".")
    built = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(built).parameters
    assert set(parameters) == set(TARGETS[target].__struct_fields__)
    assert all(p.default is inspect.Parameter.empty for p in parameters.values()), "values: conf/"


def test_create_app_exists_where_the_api_group_says() -> None:
    module, _, name = str(ApiSettings.__struct_config__.tag).rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_shared_is_local_but_for_what_makes_it_shared(compose_config: Compose) -> None:
    local, shared = (
        OmegaConf.to_container(compose_config(f"api={name}").api) for name in ("local", "shared")
    )
    assert isinstance(local, dict)
    assert isinstance(shared, dict)
    differ = {key for key in local if local[key] != shared[key]}
    assert differ == {"host", "api_key", "rate_limit_per_minute"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_changes_a_value(recipe: str, compose_config: Compose) -> None:
    plain, overlaid = compose_config(), compose_config(f"recipe={recipe}")
    assert overlaid != plain
    load_settings(overlaid)


def test_the_command_line_beats_the_recipe_and_the_recipe_the_options(
    compose_config: Compose,
) -> None:
    recipe = compose_config("recipe=ci_smoke")
    assert (recipe.model._target_, recipe.api.port) == ("vllm_mlx.runner.toy.ToyModel", 0)
    ours = compose_config("recipe=ci_smoke", "model=smollm2", "api.port=8001")
    assert (ours.model.path, ours.api.port) == ("embedded", 8001)


def test_no_key_is_called_like_an_overlay_group(compose_config: Compose) -> None:
    assert "recipe" not in compose_config()


def test_settings_hold_no_values() -> None:
    """Defaults live in conf/ alone."""
    nodes: list[Any] = [
        node
        for node in vars(declared).values()
        if isinstance(node, type) and issubclass(node, Settings)
    ]
    assert len(nodes) >= 10
    for node in nodes:
        assert node.__struct_defaults__ == (), node
        assert node.__struct_config__.forbid_unknown_fields, node
        assert node.__struct_config__.frozen, node
