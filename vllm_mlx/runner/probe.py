"""Which mode a model gets, decided by running it: not a list of names.

A short random prompt goes through the model's own caches and through token rows, two sequences in
interleaved chunks of uneven length, past every window. Equal logits mean token rows. Otherwise
sequences of uneven length, the longest past every window, decode in a batch that they join and
leave, and alone; equal logits mean batched rows.
"""

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from msgspec import Struct

from vllm_mlx.cache.blocks import blocks_for
from vllm_mlx.cache.slabs import LayerSpec
from vllm_mlx.core.generation import Generation
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.runner.base import Grant
from vllm_mlx.runner.row_padding import RowPadding
from vllm_mlx.runner.rows import RowsRunner
from vllm_mlx.runner.token_rows import TokenRowsRunner

SHORTEST_PROBE_TOKENS = 40
LONGEST_PROBE_TOKENS = 1200
CHUNKS = (7, 1, 19, 2, 64, 5, 1, 128, 3)  # uneven, and crossing tiles at odd places
BATCH_LENGTHS = (9, 17, 5)
BATCHES = ((0, 1), (0, 1, 2), (0, 1, 2), (1, 2))  # who decodes in each step: one joins, one leaves


class Finding(Struct, frozen=True):
    """``layers`` is set for token rows. ``reason`` is one clause for the start-up plan."""

    mode: str  # token_rows, rows (batched) or single_rows
    reason: str
    layers: list[LayerSpec] = []


def find_mode(
    model: Module, vocab_tokens: int, block_tokens: int, fused: bool, wanted: str
) -> Finding:
    """Run the probe. ``wanted`` is auto, token_rows or rows; what fails is never chosen."""
    refusal = "asked for by model.mode" if wanted == "rows" else None
    if refusal is None:
        layers = layer_specs(model)
        if isinstance(layers, str):
            refusal = layers
        else:
            refusal = _token_rows_differ(model, layers, vocab_tokens, block_tokens, fused)
            if refusal is None:
                return Finding("token_rows", "same logits as the model's own caches", layers)
    try:
        difference = _batch_differs(model, vocab_tokens)
    except Exception as error:  # a cache that cannot be merged says so in many ways
        difference = f"its caches do not batch ({type(error).__name__}: {error})"
    if difference is None:
        return Finding("rows", refusal)
    return Finding("single_rows", f"{refusal}; {difference}")


def layer_specs(model: Module) -> list[LayerSpec] | str:
    """What each layer stores, read off a short run; or why the pool cannot hold it."""
    caches = make_prompt_cache(model)
    for cache in caches:
        kept = type(cache) is RotatingKVCache and cache.keep > 0
        if type(cache) not in (KVCache, RotatingKVCache) or kept:
            return f"a layer's state is not keys and values by position ({type(cache).__name__})"
    mx.eval(model(mx.array([[1, 2, 3]]), cache=caches))
    if any(cache.keys is None for cache in caches):
        return "a layer keeps nothing in its cache"
    return [
        LayerSpec(
            kv_heads=cache.keys.shape[1],
            key_dim=cache.keys.shape[3],
            value_dim=cache.values.shape[3],
            dtype=cache.keys.dtype,
            window_tokens=getattr(cache, "max_size", None),
        )
        for cache in caches
    ]


def _token_rows_differ(
    model: Module, layers: list[LayerSpec], vocab_tokens: int, block_tokens: int, fused: bool
) -> str | None:
    longest = _past_windows(SHORTEST_PROBE_TOKENS, [layer.window_tokens for layer in layers])
    prompts = [_prompt(longest, vocab_tokens, 1), _prompt(longest - 7, vocab_tokens, 2)]
    reference = [_plain_logits(model, prompt) for prompt in prompts]
    blocks = 1 + sum(blocks_for(len(prompt), block_tokens) for prompt in prompts)
    runner = TokenRowsRunner(model, layers, block_tokens, blocks, RowPadding(), fused)
    try:
        found = _interleaved_logits(runner, prompts, block_tokens)
    except Exception as error:  # whatever a foreign model raises means: not this way
        runner.release_model()
        return f"token rows fail ({type(error).__name__}: {error})"
    for (positions, mine), theirs in zip(found, reference, strict=True):
        gap = relative_gap(mine, theirs[mx.array(positions)])
        if gap > tolerance(theirs.dtype):
            runner.release_model()
            return f"token rows give other logits (relative difference {gap:.1e})"
    return None


def _past_windows(tokens: int, windows: list[int | None]) -> int:
    """``tokens``, or as many as it takes to fill every window and go on for a while."""
    return min(max([tokens, *(w + 12 for w in windows if w)]), LONGEST_PROBE_TOKENS)


def _interleaved_logits(
    runner: TokenRowsRunner, prompts: list[tuple[int, ...]], block_tokens: int
) -> list[tuple[list[int], mx.array]]:
    """Positions and their logits for every prompt, computed chunk by chunk in common steps.

    All positions of all chunks but the last, of which only its end is wanted, as when serving.
    """
    sequences, next_block = [], 1
    for number, prompt in enumerate(prompts):
        sequence = Sequence(Generation(id="probe", prompt_ids=prompt), number, 1)
        count = blocks_for(len(prompt), block_tokens)
        sequence.block_ids = list(range(next_block, next_block + count))
        next_block += count
        sequences.append(sequence)
    pieces: list[list[mx.array]] = [[] for _ in sequences]
    positions: list[list[int]] = [[] for _ in sequences]
    step = 0
    while any(sequence.remaining_tokens for sequence in sequences):
        grants = []
        for sequence in sequences:
            count = min(CHUNKS[(step + sequence.number) % len(CHUNKS)], sequence.remaining_tokens)
            if count:
                start = sequence.computed_tokens
                is_last = count == sequence.remaining_tokens
                grants.append(Grant(sequence, start, count, samples=is_last, scores=not is_last))
                sequence.computed_tokens += count
        logits, row = runner.forward(grants, None), 0
        for grant in grants:
            number, count = grant.sequence.number, grant.num_logits
            pieces[number].append(logits[row : row + count])
            positions[number] += range(grant.end - count, grant.end)
            row += count
        mx.eval(logits, runner.state())
        step += 1
    return [(where, mx.concatenate(piece)) for where, piece in zip(positions, pieces, strict=True)]


def _batch_differs(model: Module, vocab_tokens: int) -> str | None:
    """Decode a few tokens of three sequences in a batch and alone."""
    windows = [getattr(cache, "max_size", None) for cache in _flat(make_prompt_cache(model))]
    lengths = [BATCH_LENGTHS[0], _past_windows(BATCH_LENGTHS[1], windows), BATCH_LENGTHS[2]]
    steps = len(BATCHES)
    prompts = [_prompt(n, vocab_tokens, seed) for seed, n in enumerate(lengths)]
    reference = [_plain_logits(model, prompt) for prompt in prompts]
    runner = RowsRunner(model, lambda: make_prompt_cache(model), batched=True)
    sequences = []
    for number, prompt in enumerate(prompts):
        sequence = Sequence(Generation(id="probe", prompt_ids=prompt[:-steps]), number, steps + 1)
        runner.forward([Grant(sequence, 0, len(prompt) - steps, samples=False)], None)
        mx.eval(runner.state())
        sequences.append(sequence)
    for members in BATCHES:
        for sequence in (s for s in sequences if s.number not in members and s.num_sampled):
            runner.forget(sequence)
        places = [sequences[number].length for number in members]
        grants = []
        for number, place in zip(members, places, strict=True):
            sequences[number].output_ids.append(prompts[number][place])
            sequences[number].num_sampled += 1
            grants.append(Grant(sequences[number], place, 1, samples=True))
        logits = runner.forward(grants, None)
        mx.eval(logits, runner.state())
        for row, (number, place) in enumerate(zip(members, places, strict=True)):
            theirs = reference[number][place]
            if (gap := relative_gap(logits[row], theirs)) > tolerance(theirs.dtype):
                return f"a batch gives other logits (relative difference {gap:.1e})"
    return None


def _flat(caches: list[Any]) -> list[Any]:
    """Caches of all layers, those inside a list of caches too."""
    return [inner for cache in caches for inner in getattr(cache, "caches", [cache])]


def _plain_logits(model: Module, prompt: tuple[int, ...]) -> mx.array:
    """Logits at every position through the model's own caches: [tokens, vocab]."""
    logits: mx.array = model(mx.array([prompt]), cache=make_prompt_cache(model))[0]
    mx.eval(logits)
    return logits


def _prompt(tokens: int, vocab_tokens: int, seed: int) -> tuple[int, ...]:
    ids: Any = mx.random.randint(0, vocab_tokens, (tokens,), key=mx.random.key(seed)).tolist()
    return tuple(ids)


def relative_gap(mine: mx.array, theirs: mx.array) -> float:
    """Largest difference, as a share of the spread of the logits; inf for NaN or other shapes."""
    if mine.shape != theirs.shape:
        return float("inf")
    mine, theirs = mine.astype(mx.float32), theirs.astype(mx.float32)
    spread = mx.maximum(mx.max(mx.abs(theirs - mx.mean(theirs, axis=-1, keepdims=True))), 1e-6)
    measured: Any = (mx.max(mx.abs(mine - theirs)) / spread).item()
    gap = float(measured)
    return gap if gap == gap else float("inf")


def tolerance(dtype: mx.Dtype) -> float:
    """What rounding in another order may change, as a share of the spread."""
    return {mx.float32: 1e-3, mx.float16: 3e-2}.get(dtype, 1e-1)
