"""What HTTP costs: streamed output at 32 clients against the same engine in process.

    uv run python benchmarks/http_overhead.py [--pairs 10] [--clients 32]

The model is a random llama of two layers, so that nearly all time is ours. A server process, an
engine process and a client process take turns on the same machine; prints the ratio of tokens per
second, HTTP / in process.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, interleave, make_engine, median_ratio, preload_blas, random_prompt, save
from streams import run_streams

PROMPT_TOKENS = 32
OUTPUT_TOKENS = 128


def tiny_model(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from tests.checkpoints import build_checkpoint

    return Path(build_checkpoint("llama", folder))


def launch(overrides: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A server of its own on a free port, ready to answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_mlx", "api.port=0", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"URL\s+http://[\d.]+:(\d+)", line):
            return process, int(found[1])
    raise RuntimeError("the server did not start")


async def run_in_process(engine: Any, prompts: list[tuple[int, ...]]) -> float:
    from vllm_mlx.core.generation import Generation, Sampling, Stopping

    async def one(prompt: tuple[int, ...]) -> None:
        stream = engine.submit(
            Generation(
                id="bench",
                prompt_ids=prompt,
                sampling=Sampling(temperature=0.0),
                stopping=Stopping(max_tokens=OUTPUT_TOKENS, ignore_eos=True),
            )
        )
        async for _ in stream:
            pass

    started = time.perf_counter()
    await asyncio.gather(*(one(prompt) for prompt in prompts))
    return len(prompts) * OUTPUT_TOKENS / (time.perf_counter() - started)


def serve_in_process(model: Path) -> None:
    """The engine process: a line in, a run, a rate out."""
    preload_blas(True)
    loop = asyncio.new_event_loop()
    engine = make_engine("model=auto", f"model.path='{model}'", "cache=none")
    loop.run_until_complete(engine.start())
    print("ready", engine.card.vocab_tokens, flush=True)
    for line in sys.stdin:
        seed, clients = map(int, line.split())
        prompts = [
            random_prompt(PROMPT_TOKENS, engine.card.vocab_tokens, seed * 1000 + i)
            for i in range(clients)
        ]
        print(loop.run_until_complete(run_in_process(engine, prompts)), flush=True)
    loop.run_until_complete(engine.stop(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--save", default=None)
    args = parser.parse_args()
    if args.engine:
        serve_in_process(Path(args.engine))
        return
    folder = tempfile.TemporaryDirectory()
    model = tiny_model(Path(folder.name))
    server, port = launch(["model=auto", f"model.path='{model}'", "cache=none"])
    worker = subprocess.Popen(
        [sys.executable, __file__, "--engine", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    vocab = int(worker.stdout.readline().split()[1])

    def http(pair: int) -> float:
        bodies = [
            {
                "prompt": list(random_prompt(PROMPT_TOKENS, vocab, pair * 1000 + i)),
                "max_tokens": OUTPUT_TOKENS,
                "temperature": 0,
                "ignore_eos": True,
            }
            for i in range(args.clients)
        ]
        return asyncio.run(run_streams("127.0.0.1", port, bodies))

    def in_process(pair: int) -> float:
        worker.stdin.write(f"{pair} {args.clients}\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    interleave(1, http, in_process)
    ours, theirs = interleave(args.pairs, http, in_process)
    worker.stdin.close()
    server.terminate()
    server.wait()
    result = {
        "clients": args.clients,
        "http_per_in_process": median_ratio(ours, theirs),
        "http_tokens_per_second": sorted(ours)[len(ours) // 2],
        "in_process_tokens_per_second": sorted(theirs)[len(theirs) // 2],
    }
    print(result)
    if args.save:
        save(args.save, result)


if __name__ == "__main__":
    main()
