"""What the benchmark scripts share: engines in process, prompts, medians with intervals, results."""

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench_results"


def preload_blas(wanted: bool) -> str:
    """OpenBLAS before MLX, or not; says which."""
    if not wanted:
        return "reference BLAS of the wheel"
    from vllm_mlx.model.blas import preload_openblas

    report = preload_openblas()
    return str(report.library) if report.found else "reference BLAS of the wheel (no OpenBLAS)"


def make_engine(*overrides: str) -> Any:
    """An engine as `vllm-mlx OVERRIDES` would build it; not started."""
    from hydra import compose, initialize_config_module

    from vllm_mlx.assembly import build_engine, load_settings

    with initialize_config_module("vllm_mlx.conf", version_base="1.3"):
        cfg = compose("server", overrides=list(overrides))
    return build_engine(load_settings(cfg), cfg)


def random_prompt(tokens: int, vocab_tokens: int, seed: int) -> tuple[int, ...]:
    """Ids without special ones, different for every seed."""
    source = random.Random(seed)
    return tuple(source.randrange(64, vocab_tokens - 64) for _ in range(tokens))


def median_ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median of pairwise ratios ours / theirs with its 95 % interval (order statistics)."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    n = len(ratios)
    # ranks of the binomial interval for a median; for n < 6 it is the whole range
    reach = int(1.96 * (n**0.5) / 2 + 0.5)
    low, high = max(0, n // 2 - reach), min(n - 1, (n - 1) // 2 + reach)
    return {
        "median": statistics.median(ratios),
        "low": ratios[low],
        "high": ratios[high],
        "pairs": n,
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Print, and keep in bench_results/NAME.json."""
    text = json.dumps({"machine": machine(), **result}, indent=1)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def interleave(
    pairs: int, ours: Callable[[int], float], theirs: Callable[[int], float]
) -> tuple[list[float], list[float]]:
    """Run both ``pairs`` times, changing who goes first, so that drift hits both alike."""
    mine: list[float] = []
    others: list[float] = []
    for pair in range(pairs):
        for side in ("ours", "theirs") if pair % 2 == 0 else ("theirs", "ours"):
            (mine if side == "ours" else others).append(
                (ours if side == "ours" else theirs)(pair)
            )
    return mine, others
