"""Where rows go and what they see, against the definition: position by position."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.reference import attend_one
from tests.sequences import make_sequence
from vllm_mlx.cache.blocks import blocks_for
from vllm_mlx.cache.slabs import NULL_BLOCK, KvSlabs, LayerSpec
from vllm_mlx.core.step import Grant
from vllm_mlx.core.tiles import TILE_TOKENS
from vllm_mlx.runner.layer_cache import PagedLayerCache
from vllm_mlx.runner.step_layout import (
    PADDING_BLOCKS,
    PADDING_SHARE,
    StepLayout,
    split_by_equality,
    split_by_padding,
)


@dataclass
class Step:
    grants: list[Grant]
    block_tokens: int
    lead: int
    trail: int
    exact: bool
    spec: LayerSpec

    def layout(self) -> StepLayout:
        rows = self.lead + self.trail + sum(grant.count for grant in self.grants)
        return StepLayout(self.grants, self.block_tokens, rows, self.lead, self.exact)

    def rows(self) -> list[tuple[Grant, int] | None]:
        """Grant and position of each row, None for padding: as the docstring says."""
        decode = sorted((g for g in self.grants if g.is_decode), key=lambda g: g.start)
        prefill = [g for g in self.grants if not g.is_decode]
        real = [(g, place) for g in [*decode, *prefill] for place in range(g.start, g.end)]
        return [*[None] * self.lead, *real, *[None] * self.trail]

    def seen(self, position: int) -> range:
        """Positions that the query at ``position`` may see."""
        window = self.spec.window_tokens
        return range(0 if window is None else max(0, position - window + 1), position + 1)

    def slot(self, grant: Grant, position: int, head: int) -> int:
        """Flat row of a slab."""
        block = grant.sequence.block_ids[position // self.block_tokens]
        place = position % self.block_tokens
        return (block * self.spec.kv_heads + head) * self.block_tokens + place


@st.composite
def steps(draw: st.DrawFn, longest: int = 300) -> Step:
    block_tokens = draw(st.sampled_from([1, 4, 16, 64]))
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=6))
    spans = [sorted(draw(st.tuples(*[st.integers(0, longest)] * 2))) for _ in kinds]
    counts = [blocks_for(end + 1, block_tokens) for _, end in spans]
    table = list(range(1, 1 + sum(counts)))
    draw(st.randoms(use_true_random=False)).shuffle(table)
    grants = []
    for number, (decodes, (start, end), count) in enumerate(zip(kinds, spans, counts, strict=True)):
        prompt = [1] * (end + 1)
        if decodes:
            sequence = make_sequence(prompt[:end] or [1], number=number, outputs=[7] * 2)
            grant = Grant(sequence, end, 1, samples=True)
        else:
            sequence = make_sequence(prompt, number=number)
            grant = Grant(sequence, start, end + 1 - start, samples=draw(st.booleans()))
        sequence.block_ids, table = table[:count], table[count:]
        grants.append(grant)
    kv_heads = draw(st.integers(1, 3))
    window = draw(st.none() | st.integers(1, longest))
    return Step(
        grants,
        block_tokens,
        lead=draw(st.integers(0, 5)),
        trail=draw(st.integers(0, 5)),
        exact=draw(st.booleans()),
        spec=LayerSpec(kv_heads, 4, 4, mx.float32, window),
    )


@given(steps())
@settings(max_examples=100)
def test_rows_and_positions(step: Step) -> None:
    layout, rows = step.layout(), step.rows()
    positions = [0 if row is None else row[1] for row in rows]
    assert np.array(layout.positions).tolist() == positions
    firsts = layout.first_rows()
    assert len(firsts) == len(step.grants)
    for grant, first in zip(step.grants, firsts, strict=True):
        assert rows[first] == (grant, grant.start)
        assert rows[first + grant.count - 1] == (grant, grant.end - 1)
    real = [row for row, content in enumerate(rows) if content is not None]
    assert layout.layer(step.spec).covered_rows == range(real[0], real[-1] + 1)


@given(steps())
@settings(max_examples=100)
def test_every_row_writes_to_its_own_place(step: Step) -> None:
    heads, size = step.spec.kv_heads, step.block_tokens
    slots = np.array(step.layout().layer(step.spec).slots).reshape(-1, heads)
    written = []
    for row, content in enumerate(step.rows()):
        for head in range(heads):
            if content is None:
                assert slots[row, head] // (heads * size) == NULL_BLOCK
            else:
                assert slots[row, head] == step.slot(*content, head)
                written.append(slots[row, head])
    assert len(set(written)) == len(written)


@given(steps())
@settings(max_examples=100)
def test_decode_rows_see_their_window_and_nothing_else(step: Step) -> None:
    heads, size = step.spec.kv_heads, step.block_tokens
    rows, decoding = step.rows(), []
    for group in step.layout().layer(step.spec).groups:
        index, mask = np.array(group.index), np.array(group.mask)
        width = index.shape[-1]
        assert index.shape == (group.last - group.first, heads, width)
        assert mask.shape == (group.last - group.first, 1, 1, width * size)
        for row in range(group.first, group.last):
            content = rows[row]
            assert content is not None
            grant, position = content
            decoding.append(grant)
            visible = mask[row - group.first, 0, 0] == 0
            assert np.isneginf(mask[row - group.first, 0, 0][~visible]).all()
            for head in range(heads):
                blocks = index[row - group.first, head]
                slots = (blocks[:, None] * size + np.arange(size)[None]).reshape(-1)
                expected = [step.slot(grant, p, head) for p in step.seen(position)]
                assert slots[visible].tolist() == expected
        if step.exact:  # nothing is padded: a row's sums do not depend on another row
            spans = [step.seen(content[1]) for content in rows[group.first : group.last] if content]
            assert {s[-1] // size - s[0] // size + 1 for s in spans} == {width}
    assert [id(grant) for grant in decoding] == [id(g) for g in step.layout().decode]


@given(steps())
@settings(max_examples=100)
def test_prefill_spans_hold_what_their_tiles_read(step: Step) -> None:
    heads, size, rows = step.spec.kv_heads, step.block_tokens, step.rows()
    spans = step.layout().layer(step.spec).spans
    assert len(spans) == sum(not grant.is_decode for grant in step.grants)
    for span in spans:
        content, end = rows[span.first], rows[span.last - 1]
        assert content is not None
        assert end is not None
        grant, start = content
        assert (start, end[1] + 1) == (span.start, grant.end)
        tile = span.start - span.start % TILE_TOKENS
        assert span.keys_start % size == 0
        assert span.keys_start <= step.seen(tile)[0] < span.keys_start + size
        index = np.array(span.index)
        assert index.shape[:2] == (1, heads)
        assert span.keys_start + index.shape[2] * size >= blocks_for(grant.end, TILE_TOKENS) * (
            TILE_TOKENS
        )
        for head in range(heads):
            for number, block_head in enumerate(index[0, head]):
                position = span.keys_start + number * size
                if position < grant.end:
                    assert block_head * size == step.slot(grant, position, head)
                else:
                    assert block_head == NULL_BLOCK * heads + head


def test_layers_of_one_kind_share_a_layout() -> None:
    sequence = make_sequence([1] * 5)
    sequence.block_ids = [1]
    layout = StepLayout([Grant(sequence, 0, 5, True)], 16, 5)
    plain = LayerSpec(2, 4, 4, mx.float32)
    assert layout.layer(plain) is layout.layer(LayerSpec(2, 8, 8, mx.float16))
    assert layout.layer(plain) is not layout.layer(LayerSpec(1, 4, 4, mx.float32))
    assert layout.layer(plain) is not layout.layer(LayerSpec(2, 4, 4, mx.float32, 8))


@given(st.lists(st.integers(1, 400), max_size=30).map(sorted))
def test_runs_cover_everything_and_pad_little(counts: list[int]) -> None:
    for runs in (split_by_padding(counts), split_by_equality(counts)):
        assert [i for first, last in runs for i in range(first, last)] == list(range(len(counts)))
        assert all(first < last for first, last in runs)
    for first, last in split_by_padding(counts):
        held, read = sum(counts[first:last]), counts[last - 1] * (last - first)
        if last - first > 1:
            assert read - held <= PADDING_SHARE * held + PADDING_BLOCKS
    for first, last in split_by_equality(counts):
        assert len(set(counts[first:last])) == 1
    equal = split_by_equality(counts)
    assert len(equal) == len(set(counts))


@given(steps(longest=100), st.integers(0, 99), st.booleans())
@settings(max_examples=80)
def test_a_step_through_the_slabs_is_plain_attention(step: Step, seed: int, fused: bool) -> None:
    """Every sequence's keys and values are in the slabs but for this step's own, which are given
    to the layer; each row then attends as if it were alone."""
    random = np.random.default_rng(seed)
    heads, spec, layout = step.spec.kv_heads * 2, step.spec, step.layout()
    slabs = KvSlabs([spec], step.block_tokens)
    slabs.ensure(1 + max(b for g in step.grants for b in g.sequence.block_ids), 10_000)
    keys = {id(g): random.normal(size=(spec.kv_heads, g.end, 4)) for g in step.grants}
    values = {id(g): random.normal(size=(spec.kv_heads, g.end, 4)) for g in step.grants}
    flat_keys, flat_values = np.array(slabs.keys[0]), np.array(slabs.values[0])
    for grant in step.grants:
        for position in range(grant.start):
            for head in range(spec.kv_heads):
                slot = step.slot(grant, position, head)
                flat_keys[slot] = keys[id(grant)][head, position]
                flat_values[slot] = values[id(grant)][head, position]
    slabs.keys[0], slabs.values[0] = mx.array(flat_keys), mx.array(flat_values)
    rows = step.rows()
    new_keys = np.zeros((len(rows), spec.kv_heads, 1, 4), np.float32)
    new_values = np.zeros_like(new_keys)
    queries = random.normal(size=(len(rows), heads, 1, 4)).astype(np.float32)
    for row, content in enumerate(rows):
        if content is not None:
            new_keys[row, :, 0] = keys[id(content[0])][:, content[1]]
            new_values[row, :, 0] = values[id(content[0])][:, content[1]]
    sinks = random.normal(size=heads).astype(np.float32) if seed % 2 else None
    cache = PagedLayerCache(0, slabs, fused)
    cache.begin(layout)
    cache.update_and_fetch(mx.array(new_keys), mx.array(new_values))
    out = np.array(cache.attend(mx.array(queries), 0.5, None if sinks is None else mx.array(sinks)))
    for row, content in enumerate(rows):
        if content is not None:
            grant, position = content
            expected = attend_one(
                queries[row, :, 0],
                keys[id(grant)],
                values[id(grant)],
                position,
                spec.window_tokens,
                0.5,
                sinks,
            )
            np.testing.assert_allclose(out[row, :, 0], expected, rtol=1e-3, atol=1e-4)
