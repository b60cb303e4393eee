"""Write docs/configuration.md from conf/, settings.py and the flag table: `just docs`."""

from pathlib import Path
from typing import Any

import msgspec.inspect
from msgspec.inspect import Metadata, Type

from vllm_mlx.flags import FLAGS, GROUPS, Flag
from vllm_mlx.settings import ServerSettings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
OPTION_GROUPS = ("model", "scheduler", "cache", "api")

HEAD = """\
# Configuration

Made by `just docs` from `conf/`, `settings.py` and the flag table; do not edit.

The server is composed by [Hydra](https://hydra.cc). `conf/server.yaml` lists its parts; each part
is a *group* with *option* files. On the command line, `GROUP=OPTION` picks a file and `a.b=value`
sets one key; both go to plain `vllm-mlx` or after `serve MODEL`. Later beats earlier: option
files, `server.yaml`, recipe, command line.

    vllm-mlx cache=none scheduler.max_running=32 api.port=8001
    vllm-mlx model=auto model.path=/models/Qwen3-0.6B
    vllm-mlx +model.chat_template_kwargs.enable_thinking=false
    vllm-mlx api=shared 'api.api_key=${oc.env:VLLM_MLX_KEY}'
    vllm-mlx recipe=ci_smoke --cfg job

* `--cfg job` prints the composed tree and stops.
* `--config-dir DIR` (or `hydra.searchpath=[file://DIR]`) adds option files of your own: put
  `DIR/model/mine.yaml` there and say `model=mine`.
* `eval "$(vllm-mlx -sc install=bash)"` completes groups, options, recipes and keys.
* A wrong key, type, range or target ends the start with one line that names the key, exit code 1.
  `HYDRA_FULL_ERROR=1` shows the whole traceback.
* Environment: `VLLM_MLX_CACHE` is the folder of converted models, `HF_TOKEN` and `HF_HOME` are the
  hub's, `OPENBLAS_NUM_THREADS` the threads of a product on a Linux CPU.
"""

MARKS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def limits(kind: Any) -> str:
    found = [
        f"{MARKS[mark]} {value:g}"
        for mark in MARKS
        if (value := getattr(kind, mark, None)) is not None and abs(value) < 1e12
    ]
    return f" ({', '.join(found)})" if found else ""


def words(kind: Type) -> str:
    """A type of settings.py in words."""
    match kind:
        case Metadata():
            return words(kind.type)
        case msgspec.inspect.UnionType():
            return " or ".join(words(member) for member in kind.types)
        case msgspec.inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case msgspec.inspect.IntType():
            return f"whole number{limits(kind)}"
        case msgspec.inspect.FloatType():
            return f"number{limits(kind)}"
        case msgspec.inspect.ListType():
            return f"list of {words(kind.item_type)}s"
        case msgspec.inspect.NoneType():
            return "`null`"
        case msgspec.inspect.DictType():
            return "mapping"
        case msgspec.inspect.BoolType():
            return "`true` or `false`"
        case msgspec.inspect.StrType():
            return "text"
    raise TypeError(f"no words for {kind}")


def members(kind: Type) -> tuple[Type, ...]:
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def key_rows(node: msgspec.inspect.StructType, prefix: str) -> list[str]:
    rows = []
    for field in node.fields:
        path = f"{prefix}.{field.name}"
        if isinstance(field.type, msgspec.inspect.StructType):
            rows += key_rows(field.type, path)
        else:
            rows.append(f"| `{path}` | {words(field.type)} |")
    return rows


def option_file(group: str, path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").rstrip()
    indented = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
    return [f"### `{group}={path.stem}`", "", indented, ""]


def group_pages() -> list[str]:
    tree = msgspec.inspect.type_info(ServerSettings)
    assert isinstance(tree, msgspec.inspect.StructType)
    kinds = {field.name: field.type for field in tree.fields}
    page = []
    for group in OPTION_GROUPS:
        page += [f"## Group `{group}`", ""]
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            page += option_file(group, path)
        for node in members(kinds[group]):
            assert isinstance(node, msgspec.inspect.StructType)
            page += [f"Types and limits of `{node.tag}`:", "", "| key | value |", "|---|---|"]
            page += [*key_rows(node, group), ""]
    level = words(kinds["log_level"])
    return [*page, "## Top level", "", f"`log_level`: {level}.", ""]


def effect(flag: Flag) -> str:
    if flag.translate is None:
        return f"refused: {flag.missing} does not exist yet"
    sample = {"JSON": '{"a":1}', "X": "0.5", "SECONDS": "60"}.get(flag.value or "", "1")
    key = flag.translate(sample)[0].lstrip("+")
    shown = key if flag.value is None else f"{key.split('=')[0]}={flag.value}"
    return f"`{shown}`: {flag.text}"


def flag_pages() -> list[str]:
    page = [
        "## Flags of `serve`",
        "",
        "Each flag is another way to write configuration keys. A flag whose feature does not exist",
        "yet is refused by name. A key given as `key=value` is stronger than a flag.",
        "",
    ]
    for group in GROUPS:
        page += [f"### {group}", "", "| flag | effect |", "|---|---|"]
        page += [f"| `{flag.spelled}` | {effect(flag)} |" for flag in FLAGS if flag.group == group]
        page.append("")
    return page


def main_page() -> str:
    parts = [HEAD, "## `server.yaml`", ""]
    text = (ROOT / "conf" / "server.yaml").read_text(encoding="utf-8").rstrip()
    parts += ["\n".join(f"    {line}".rstrip() for line in text.splitlines()), ""]
    return "\n".join([*parts, *group_pages(), *flag_pages()]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(main_page(), encoding="utf-8")
