"""How many rows a product gets, and what that buys."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mlx.runner import row_padding
from vllm_mlx.runner.row_padding import CANDIDATES, RowPadding, measure_padding

INNER, OUTER = (48, 64, 576, 1536), (96, 192, 576)


def test_padding_never_drops_a_row_and_takes_what_was_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 4 and 16 rows are fast, all others slow in proportion
    monkeypatch.setattr(row_padding, "_fastest", lambda rows, _: 1.0 if rows in (4, 16) else rows)
    monkeypatch.setattr(row_padding, "_places_are_alike", lambda rows, _: rows == 1)
    padding = measure_padding(mx.float32, [mx.ones((4, 4))])
    assert [padding.cheap(rows) for rows in (1, 2, 4, 5, 16, 17, 33, 100)] == [
        *(1, 4, 4, 16, 16, 17, 33, 100)
    ]
    assert all(padding.cheap(rows) >= rows for rows in range(1, 200))


def test_padding_that_saves_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_padding, "_fastest", lambda rows, _: 1.0 - rows / 1000)
    padding = measure_padding(mx.float32, [mx.ones((4, 4))])
    assert [padding.cheap(rows) for rows in range(1, 40)] == list(range(1, 40))


def test_without_measuring_nothing_is_padded() -> None:
    assert [RowPadding().cheap(rows) for rows in range(1, 20)] == list(range(1, 20))
    assert RowPadding().decode_rows is None


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_nothing_is_promised_in_16_bit(dtype: mx.Dtype) -> None:
    assert measure_padding(dtype, [mx.ones((4, 4))]) == RowPadding()


def test_the_first_number_whose_places_are_alike_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_padding, "_places_are_alike", lambda rows, _: rows in (6, 2, 1))
    assert measure_padding(mx.float32, []).decode_rows == 6
    monkeypatch.setattr(row_padding, "_places_are_alike", lambda rows, _: False)
    assert measure_padding(mx.float32, []).decode_rows is None


@pytest.fixture(scope="module")
def decode_rows() -> int:
    shapes = [(outer, inner) for outer in OUTER for inner in INNER]
    weights = [mx.random.normal(shape, key=mx.random.key(1)) for shape in shapes]
    rows = measure_padding(mx.float32, weights).decode_rows
    assert rows in CANDIDATES  # this CPU has such a number
    return rows


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a promise of the CPU")
@given(
    seed=st.integers(0, 1000),
    inner=st.sampled_from(INNER),
    outer=st.sampled_from(OUTER),
    data=st.data(),
)
@settings(max_examples=30)
def test_neither_place_nor_company_changes_a_bit(
    decode_rows: int, seed: int, inner: int, outer: int, data: st.DataObject
) -> None:
    weights = mx.random.normal((outer, inner), key=mx.random.key(seed))
    row = mx.random.normal((1, 1, inner), key=mx.random.key(seed + 1))
    found = []
    for company in range(2):
        place = data.draw(st.integers(0, decode_rows - 1))
        batch = mx.random.normal((decode_rows, 1, inner), key=mx.random.key(seed + 2 + company))
        batch[place] = row[0]
        found.append((batch @ weights.T)[place])
    assert mx.array_equal(found[0], found[1])
