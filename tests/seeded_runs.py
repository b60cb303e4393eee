"""Seeded requests of every kind, and their exact results; also a program, so that a test can run
it with another BLAS or another number of threads: ``python -m tests.seeded_runs openblas FOLDER``.
"""

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_mlx.model.blas import preload_openblas

if __name__ == "__main__" and sys.argv[1] == "openblas":
    preload_openblas()  # before mlx is imported below

from tests.engine_driver import Answer, ask, running_engine
from vllm_mlx.core.generation import Generation, Sampling, Stopping
from vllm_mlx.engine.engine import GenerationEngine

Exact = tuple[list[int], list[float | None]]  # token ids, and their logprobs to the last bit
PROMPT_TOKENS = (1, 3, 17, 63, 64, 65, 100, 130, 200)
WORDS = 2000  # below every vocabulary of these tests


def seeded_requests(count: int, longest: int, max_tokens: int) -> list[Generation]:
    """Parameters and lengths drawn once; a third of the prompts begin alike."""
    draw = random.Random(5)
    shared = [draw.randrange(8, WORDS) for _ in range(150)]
    return [_request(number, draw, shared, longest, max_tokens) for number in range(count)]


def _request(
    number: int, draw: random.Random, shared: list[int], longest: int, max_tokens: int
) -> Generation:
    length = min(longest, draw.choice(PROMPT_TOKENS))
    own = [draw.randrange(8, WORDS) for _ in range(length)]
    return Generation(
        id=str(number),
        prompt_ids=tuple((shared + own if number % 3 == 0 else own)[:length]),
        sampling=Sampling(
            temperature=draw.choice([0.0, 0.5, 1.0, 1.5]),
            top_p=draw.choice([1.0, 0.9, 0.5]),
            top_k=draw.choice([0, 5, 50]),
            min_p=draw.choice([0.0, 0.05]),
            presence_penalty=draw.choice([0.0, 0.5]),
            frequency_penalty=draw.choice([0.0, 0.3]),
            repetition_penalty=draw.choice([1.0, 1.2]),
            logit_bias=draw.choice([{}, {5: 3.0, 77: -50.0}]),
            seed=draw.randrange(1 << 40),
        ),
        stopping=Stopping(max_tokens=max_tokens - number % 3, ignore_eos=True),
        top_logprobs=0,
        choice=number % 2,
    )


def unseeded(request: Generation) -> Generation:
    """The same prompt, from somebody who does not care."""
    return Generation(
        id="plain",
        prompt_ids=request.prompt_ids,
        stopping=Stopping(max_tokens=3, ignore_eos=True),
    )


def exact(answer: Answer) -> Exact:
    return answer.token_ids, [entry.logprob for entry in answer.logprobs]


async def one_by_one(engine: GenerationEngine, requests: Sequence[Generation]) -> list[Exact]:
    return [exact(await ask(engine, request)) for request in requests]


async def at_once(engine: GenerationEngine, requests: Sequence[Generation]) -> list[Answer]:
    return list(await asyncio.gather(*(ask(engine, request) for request in requests)))


async def shuffled(
    engine: GenerationEngine, requests: Sequence[Generation], company: Sequence[Generation] = ()
) -> list[Exact]:
    """Submitted in another order, between others; the results in order."""
    everybody = [*requests, *company]
    order = random.Random(1).sample(range(len(everybody)), len(everybody))
    answers = await at_once(engine, [everybody[place] for place in order])
    found = dict(zip(order, answers, strict=True))
    return [exact(found[place]) for place in range(len(requests))]


async def main(folder: Path) -> None:
    """Print whether company changes anything, and the tokens."""
    requests = seeded_requests(16, longest=130, max_tokens=12)
    async with running_engine(folder) as engine:
        alone = await one_by_one(engine, requests)
    async with running_engine(folder) as engine:
        among = await shuffled(engine, requests, [unseeded(request) for request in requests[:5]])
    print(json.dumps({"same": alone == among, "tokens": [ids for ids, _ in alone]}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[2])))
