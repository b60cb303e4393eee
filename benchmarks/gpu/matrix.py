"""The model matrix and the default model on this machine's device, once.

    python benchmarks/gpu/matrix.py [--parts float32 tf32 bfloat16 default] [--models llama ...]

Runs wherever MLX runs; on an NVIDIA machine it is the check of the CUDA backend. Every part is a
process of its own (what MLX does with float32 is fixed when it is imported), the parts of the
matrix side by side, the default model, which is timed, after them:

float32   small random checkpoints of every kind; products in full float32
tf32      the same with MLX's default on a GPU: inputs of products rounded to 10 bits
bfloat16  the same in 16 bit
default   the embedded model as its file has it (4 bit) and unpacked to bfloat16

Writes bench_results/gpu_matrix.json; parts that were not run keep what an earlier run found.
Ends with 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "bench_results" / "gpu_matrix.json"
MATRIX_PARTS = ("float32", "tf32", "bfloat16")
PARTS = (*MATRIX_PARTS, "default")

PROMPT_TOKENS = (31, 300, 3, 64, 100, 17, 200, 33)
MAX_TOKENS = (40, 8, 30, 5, 12, 34, 10, 16)
JOINS_AFTER = (0, 0, 2, 6, 11, 20, 40, 60)  # tokens that all requests together have been given
DRAWN_REQUESTS = 32
DRAWN_TOKENS = 24
TEMPERATURE = 0.8
PROMPT_VOCAB = 2048  # ids that every model of the matrix has


class ErrorLog(logging.Handler):
    """The engine survives a failed step by running it again: right answers, but a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        traceback.print_exception(cause)
        self.lines.append(f"{record.getMessage()}: {cause!r}"[:500])

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def prompt_of(number: int, tokens: int) -> list[int]:
    """Distinct from the first token on, so that nothing is shared by chance."""
    return [
        (7919 * number + 104729 * (i + 1) + i * i) % (PROMPT_VOCAB - 8) + 8 for i in range(tokens)
    ]


def drawn(number: int) -> Any:
    from vllm_mlx.core.generation import Generation, Sampling, Stopping

    return Generation(
        id=f"seed {number}",
        prompt_ids=tuple(prompt_of(200 + number, 5 + 11 * number % 120)),
        sampling=Sampling(temperature=TEMPERATURE, seed=1000 + number),
        stopping=Stopping(max_tokens=DRAWN_TOKENS, ignore_eos=True),
    )


async def staggered(engine: Any, count: int) -> list[list[int]]:
    """The first ``count`` requests of the matrix, joining and leaving at different times."""
    from tests.engine_driver import Progress, ask, greedy

    progress = Progress()

    async def one(number: int) -> list[int]:
        await progress.reaches(JOINS_AFTER[number])
        request = greedy(prompt_of(number, PROMPT_TOKENS[number]), MAX_TOKENS[number])
        return (await ask(engine, request, on_tokens=progress.add)).token_ids

    return await asyncio.gather(*(one(number) for number in range(count)))


async def drawn_tokens(folder: Path, dtype: str, count: int) -> tuple[list[Any], list[Any]]:
    """Each seeded request alone, and all of them together; nothing is remembered in between."""
    from tests.engine_driver import ask, running_engine

    async with running_engine(folder, dtype=dtype, cache="none") as engine:
        together = await asyncio.gather(*(ask(engine, drawn(i)) for i in range(count)))
        alone = [await ask(engine, drawn(i)) for i in range(count)]
    return [a.token_ids for a in alone], [a.token_ids for a in together]


async def cold_then_warm(folder: Path, dtype: str, count: int) -> tuple[Any, list[Any]]:
    from tests.engine_driver import running_engine

    async with running_engine(folder, dtype=dtype) as engine:
        return engine.card, [await staggered(engine, count) for _ in range(2)]


def examine(folder: Path, dtype: str, epsilon: float, greedy: int, seeded: int) -> dict[str, Any]:
    """One checkpoint: its mode, its greedy tokens against mlx-lm's, its seeded ones in company."""
    from benchmarks.gpu.verdicts import (
        Tally,
        compare_drawn,
        compare_greedy,
        own_noise,
        solo_greedy,
    )
    from vllm_mlx.model.load import load_checkpoint

    model = load_checkpoint(folder, dtype=dtype).model
    solos = [
        solo_greedy(model, prompt_of(i, PROMPT_TOKENS[i]), MAX_TOKENS[i]) for i in range(greedy)
    ]
    card, passes = asyncio.run(cold_then_warm(folder, dtype, greedy))
    tally = Tally()
    for name, answers in zip(("cold", "warm"), passes, strict=True):
        for i, (answer, solo) in enumerate(zip(answers, solos, strict=True)):
            compare_greedy(answer, solo, epsilon, tally, f"{name} {i}")
    alone, together = asyncio.run(drawn_tokens(folder, dtype, seeded))
    chances = Tally()
    for i, (mine, others) in enumerate(zip(alone, together, strict=True)):
        compare_drawn(model, drawn(i), mine, others, epsilon, chances)
    return {
        "mode": card.mode,
        "why": card.mode_reason,
        "dtype": card.dtype,
        "mlx_lm_own_noise": max(own_noise(model, solo) for solo in solos),
        "greedy": tally.as_dict(),
        "seeded": chances.as_dict(),
    }


def examined(
    folder: Path, dtype: str, epsilon: float, log: ErrorLog, args: argparse.Namespace
) -> dict[str, Any]:
    """``examine``, with whatever went wrong as part of the result."""
    started = time.perf_counter()
    try:
        row = examine(folder, dtype, epsilon, args.greedy, args.seeded)
        row["errors"] = log.take()
    except Exception as error:  # the other models still want their turn
        traceback.print_exc()
        row = {"errors": [*log.take(), f"{type(error).__name__}: {error}"[:500]]}
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def is_good(row: dict[str, Any]) -> bool:
    tallies = [row[kind] for kind in ("greedy", "seeded") if kind in row]
    return not (row["errors"] or any(tally["failures"] for tally in tallies))


def line_of(name: str, row: dict[str, Any]) -> str:
    if "seeded" not in row:
        return f"{name:12} FAILED {row['errors']}"
    told = [
        f"{name:12} {'ok' if is_good(row) else 'FAILED':6} {row['mode']:10}",
        f"noise {row['mlx_lm_own_noise']:.1e}",
    ]
    for kind in ("greedy", "seeded"):
        tally = row[kind]
        gap = "" if tally["largest_gap"] is None else f" (gap {tally['largest_gap']:.1e})"
        told.append(f"{kind} {tally['same']}/{tally['requests']}{gap}")
        told += tally["failures"]
    return "  ".join([*told, f"{row['seconds']:.0f} s  {row['why']}", *row["errors"]])


def run_matrix(part: str, args: argparse.Namespace, save: Any) -> None:
    from benchmarks.gpu.verdicts import EPSILONS
    from tests.checkpoints import MODELS, build_checkpoint

    dtype, epsilon = "bfloat16" if part == "bfloat16" else "float32", EPSILONS[part]
    log = ErrorLog()
    logging.getLogger().addHandler(log)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.models or MODELS:
            folder = build_checkpoint(name, Path(scratch))
            rows[name] = examined(folder, dtype, epsilon, log, args)
            print(f"{part:9} {line_of(name, rows[name])}", flush=True)
            save({"epsilon": epsilon, "models": rows})


def shares(rows: dict[str, Any]) -> dict[str, Any]:
    """Over all models: how many requests gave the very same tokens, and whether all is well."""
    told: dict[str, Any] = {"all_good": all(is_good(row) for row in rows.values())}
    for kind in ("greedy", "seeded"):
        tallies = [row[kind] for row in rows.values() if kind in row]
        total = sum(tally["requests"] for tally in tallies)
        told[f"{kind}_same_share"] = sum(tally["same"] for tally in tallies) / max(1, total)
    return told


def run_part(part: str, args: argparse.Namespace) -> None:
    """In a process of its own: write what was found to ``args.out`` after every model."""
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

    def save(found: dict[str, Any]) -> None:
        args.out.write_text(json.dumps(found))

    from vllm_mlx.model.blas import preload_openblas

    preload_openblas()
    if part == "default":
        from benchmarks.gpu.default_model import run_default

        run_default(args, save)
    else:
        run_matrix(part, args, save)


def device() -> dict[str, Any]:
    import mlx.core as mx
    import mlx_lm

    told = {key: value for key, value in mx.device_info().items() if key in NAMED}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": str(mx.default_device()),
        **told,
        "mlx": mx.__version__,
        "mlx_lm": mlx_lm.__version__,
        "python": platform.python_version(),
    }


NAMED = ("device_name", "compute_capability_major", "compute_capability_minor", "total_memory")


class Job(NamedTuple):
    """One process: a part, or some models of it."""

    part: str
    number: int
    models: list[str]
    out: Path


def jobs_of(part: str, scratch: Path, args: argparse.Namespace) -> list[Job]:
    names, shards = args.models or model_names(), args.shards
    if part == "default":  # both at once: compiling their kernels takes minutes
        names, shards = ["4-bit", "bfloat16"], 2
    outs = [scratch / f"{part}_{i}.json" for i in range(shards)]
    return [Job(part, i, names[i::shards], out) for i, out in enumerate(outs) if names[i::shards]]


def model_names() -> list[str]:
    from tests.checkpoints import MODELS

    return list(MODELS)


def start(job: Job, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "MLX_ENABLE_TF32": "0" if job.part == "float32" else "1"}
    # processes side by side must not write the same compiled kernel at once
    kernels = Path(tempfile.gettempdir()) / f"mlx_ptx_{job.part}_{job.number}"
    environment["MLX_PTX_CACHE_DIR"] = str(kernels)
    command = [sys.executable, str(Path(__file__).resolve())]
    command += ["--part", job.part, "--out", str(job.out), "--models", *job.models]
    command += ["--greedy", str(args.greedy), "--seeded", str(args.seeded)]
    command += ["--pairs", str(args.pairs), "--rows", *map(str, args.rows)]
    return subprocess.Popen(command, env=environment)


def gather(jobs: list[Job]) -> dict[str, Any]:
    """What the processes of one part found, as one; what a process did not get to is not good."""
    told = [json.loads(job.out.read_text()) for job in jobs if job.out.exists()]
    found = {name: row for one in told for name, row in one["models"].items()}
    wanted = [name for job in jobs for name in job.models]
    rows = {name: found[name] for name in [*model_names(), *wanted] if name in found}
    missing = [name for name in wanted if "seeded" not in found.get(name, {})]
    result = {"epsilon": told[0]["epsilon"] if told else None, **shares(rows), "missing": missing}
    result["all_good"] = result["all_good"] and not missing
    return {**result, "models": rows}


def wait(process: "subprocess.Popen[bytes]", end: float) -> int:
    """Its exit code; a part that takes too long is ended, and what it found so far is kept."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def run_all(args: argparse.Namespace) -> int:
    """Every part in its process, then one file of results."""
    sys.path[:0] = [str(ROOT)]
    matrix = [part for part in args.parts if part != "default"]
    rounds = [matrix, *([["default"]] if "default" in args.parts else [])]
    codes: set[int] = set()
    found: dict[str, Any] = json.loads(args.save.read_text()) if args.save.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for parts in rounds:
            jobs = {part: jobs_of(part, Path(scratch), args) for part in parts}
            running = [start(job, args) for some in jobs.values() for job in some]
            end = time.monotonic() + args.limit
            codes |= {wait(process, end) for process in running}
            found |= {part: gather(some) for part, some in jobs.items()}
    commit = args.commit or found.get("machine", {}).get("commit")
    found = {
        "machine": {**device(), "commit": commit},
        **{k: found[k] for k in PARTS if k in found},
    }
    args.save.parent.mkdir(exist_ok=True)
    args.save.write_text(json.dumps(found, indent=1) + "\n")
    good = all(found.get(part, {}).get("all_good") for part in args.parts)
    for part in args.parts:
        told = found.get(part, {})
        print(part, {name: told[name] for name in told if name not in ("models", "epsilon")})
    return 0 if good and codes == {0} else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="*", help="of the matrix; all where none is named")
    parser.add_argument("--greedy", type=int, default=len(PROMPT_TOKENS), help="requests, 1 to 8")
    parser.add_argument("--seeded", type=int, default=DRAWN_REQUESTS, help="seeded requests")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="for the rates")
    parser.add_argument("--pairs", type=int, default=3, help="measurements a rate")
    parser.add_argument("--shards", type=int, default=1, help="processes a part of the matrix")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for parts side by side")
    parser.add_argument("--commit", default=None, help="to note in the result")
    parser.add_argument("--save", type=Path, default=RESULT)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args)
        return 0
    return run_all(args)


if __name__ == "__main__":
    sys.exit(main())
