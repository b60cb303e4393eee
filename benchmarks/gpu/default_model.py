"""The default model on this device: answers to read, tokens in company, rates beside mlx-lm's."""

import argparse
import asyncio
import fcntl
import json
import logging
import shutil
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from common import interleave, median_ratio, random_prompt
from engine_vs_mlx_lm import PROMPT_TOKENS, Window, run_ours, run_theirs
from mlx.utils import tree_map
from mlx_lm.utils import dequantize_model, load_model, save_model

from benchmarks.gpu.matrix import ErrorLog, examined, line_of
from benchmarks.gpu.verdicts import EPSILONS
from tests.engine_driver import ask, running_engine
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.model.load import load_checkpoint
from vllm_mlx.model.resolve import resolve_model

QUESTIONS = {
    "capital": ("What is the capital of France?", 40),
    "story": ("Write a short story about a lighthouse keeper and a cat.", 160),
}
OUTPUT_TOKENS = 128


def dense_copy(folder: Path, target: Path) -> Path:
    """The same model with every weight unpacked to bfloat16."""
    target.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, target)
    model, config = load_model(folder, lazy=True)
    model = dequantize_model(model)
    model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    save_model(target, model)
    kept = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    (target / "config.json").write_text(json.dumps(kept))
    return target


async def answers(engine: Any) -> dict[str, str]:
    """Greedy, through the model's own chat template."""
    told = {}
    for name, (question, tokens) in QUESTIONS.items():
        prompt = engine.codec.render_chat([{"role": "user", "content": question}])
        request = Generation(
            id=name,
            prompt_ids=tuple(prompt),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=tokens),
        )
        told[name] = (await ask(engine, request)).text
    return told


class Side:
    """One of the two that are compared: its decode rates and its largest need of memory."""

    def __init__(self, run: Callable[[list[tuple[int, ...]], int], Window]) -> None:
        self._run = run
        self.peak_bytes = 0

    def rate(self, prompts: list[tuple[int, ...]]) -> float:
        """Tokens per second while every sequence decodes; memory beside what was there before."""
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        window = self._run(prompts, OUTPUT_TOKENS)
        self.peak_bytes = max(self.peak_bytes, mx.get_peak_memory() - before)
        return window.decode_rate


def compare_rates(
    ours: Side, theirs: Side, rows: int, pairs: int, vocab: int, lock: Path
) -> dict[str, Any]:
    def prompts(pair: int) -> list[tuple[int, ...]]:
        return [random_prompt(PROMPT_TOKENS, vocab, pair * 1000 + i) for i in range(rows)]

    for side in (ours, theirs):  # everything compiled
        side.rate(prompts(900))
        side.peak_bytes = 0
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one process is timed at a time
        mine, others = interleave(
            pairs, lambda pair: ours.rate(prompts(pair)), lambda pair: theirs.rate(prompts(pair))
        )
    return {
        "ours_tok_s": round(statistics.median(mine), 1),
        "mlx_lm_tok_s": round(statistics.median(others), 1),
        "ratio": median_ratio(mine, others),
        "ours_peak_mib": round(ours.peak_bytes / 2**20, 1),
        "mlx_lm_peak_mib": round(theirs.peak_bytes / 2**20, 1),
    }


def talk_and_time(
    folder: Path, told: dict[str, Any], args: argparse.Namespace, save: Callable[[], None]
) -> None:
    """Answers, then rates; the weights are in memory twice, once for each side."""
    with asyncio.Runner() as runner:
        started = time.perf_counter()
        opened = running_engine(folder)
        engine = runner.run(opened.__aenter__())
        card = engine.card
        told |= {"mode": card.mode, "why": card.mode_reason, "dtype": card.dtype}
        told["weights_mib"] = round(card.weights_bytes / 2**20, 1)
        told["start_seconds"] = round(time.perf_counter() - started, 1)
        told["answers"] = runner.run(answers(engine))
        for question, text in told["answers"].items():
            print(f"  {card.dtype} {question}: {text!r}", flush=True)
        save()
        model = load_checkpoint(folder).model
        ours = Side(lambda prompts, tokens: runner.run(run_ours(engine, prompts, tokens)))
        theirs = Side(lambda prompts, tokens: run_theirs(model, prompts, tokens))
        told["decode"] = {}
        lock = args.out.parent / "timing.lock"
        for rows in args.rows:
            told["decode"][rows] = compare_rates(
                ours, theirs, rows, args.pairs, card.vocab_tokens, lock
            )
            print(f"  {folder.name} {rows} sequences {told['decode'][rows]}", flush=True)
            save()
        runner.run(opened.__aexit__(None, None, None))


def run_default(args: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    log = ErrorLog()
    logging.getLogger().addHandler(log)
    rows: dict[str, Any] = {}
    epsilon = EPSILONS["bfloat16"]

    def keep() -> None:
        save({"epsilon": epsilon, "models": rows})

    with tempfile.TemporaryDirectory() as scratch:
        packed = resolve_model("embedded")
        for name in args.models:
            folder = dense_copy(packed, Path(scratch) / name) if name == "bfloat16" else packed
            row = rows[name] = {"errors": []}
            try:
                talk_and_time(folder, row, args, keep)
            except Exception as error:  # what was found so far is kept
                traceback.print_exc()
                row["errors"].append(f"{type(error).__name__}: {error}"[:500])
            found = examined(folder, "auto", epsilon, log, args)
            row |= {**found, "errors": row["errors"] + found["errors"]}
            print(line_of(name, row), flush=True)
            keep()
