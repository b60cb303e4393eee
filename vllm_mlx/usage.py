"""What `--help` prints, made from the flag table. Nothing is parsed here."""

from vllm_mlx.flags import FLAGS, GROUPS, Flag

VERBS = {
    "serve [MODEL]": "serve a model (the default verb; without MODEL the embedded one)",
    "doctor [MODEL]": "what this machine offers, and what would stop a model from running",
    "models list": "models on this machine",
    "models inspect MODEL": "architecture, size and context, without loading weights",
    "models fetch MODEL": "download from the hub (also: download MODEL)",
}

HEAD = """\
vllm-mlx: an inference server on MLX

usage: vllm-mlx [VERB] [MODEL] [--flag ...] [key=value ...]

  vllm-mlx                                          the embedded model on 127.0.0.1:8000
  vllm-mlx serve MODEL --port 8001                  a folder, a GGUF file or a hub id
  vllm-mlx model=auto model.path=MODEL api.port=8001      the same, in configuration keys
"""

CONFIGURATION = """\
Configuration
  key=value                        any key, e.g. scheduler.max_running=32
  GROUP=OPTION                     model, scheduler, cache, api: an option file; recipe: an overlay
  --cfg job                        print the composed configuration and stop
  --config-dir DIR                 a folder with option files of your own
  -sc install=bash                 shell completion: eval "$(vllm-mlx -sc install=bash)"
  --version, --help
"""


def line(left: str, right: str) -> str:
    return f"  {left:<32} {right}".rstrip()


def flag_group(group: str) -> list[str]:
    usable = [flag for flag in FLAGS if flag.group == group and flag.missing is None]
    if not usable:
        return []
    return [f"{group} (serve)", *(line(flag.spelled, flag.text) for flag in usable), ""]


def refused(flags: tuple[Flag, ...] = FLAGS) -> list[str]:
    """The flags whose feature does not exist yet, by feature."""
    by_feature: dict[str, list[str]] = {}
    for flag in flags:
        if flag.missing is not None:
            by_feature.setdefault(flag.missing, []).append(flag.name)
    rows = [f"  {feature}: {' '.join(names)}" for feature, names in by_feature.items()]
    return ["Refused by name, because the feature does not exist yet", *rows]


def usage() -> str:
    """The whole page: verbs first, then flags by group."""
    verbs = ["Verbs", *(line(verb, text) for verb, text in VERBS.items()), ""]
    flags = [row for group in GROUPS for row in flag_group(group)]
    return "\n".join([HEAD, *verbs, CONFIGURATION, *flags, *refused()])
