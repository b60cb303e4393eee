"""How many rows a product gets, and what that buys."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mlx.runner import row_padding
from vllm_mlx.runner.row_padding import CANDIDATES, RowPadding, measure_padding


@given(rows=st.integers(1, 100), multiple=st.integers(1, 8))
def test_cheap_rows_hold_all_and_waste_little(rows: int, multiple: int) -> None:
    padded = RowPadding(cheap_multiple=multiple).cheap(rows)
    assert rows <= padded < rows + multiple
    assert padded == rows or padded % multiple == 0


def test_without_measuring_nothing_is_padded() -> None:
    assert [RowPadding().cheap(rows) for rows in range(1, 20)] == list(range(1, 20))
    assert RowPadding().decode_rows is None


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_nothing_is_promised_in_16_bit(dtype: mx.Dtype) -> None:
    assert measure_padding(dtype) == RowPadding()


def test_the_first_number_whose_places_are_alike_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_padding, "_places_are_alike", lambda rows: rows in (6, 2, 1))
    assert measure_padding(mx.float32).decode_rows == 6
    monkeypatch.setattr(row_padding, "_places_are_alike", lambda rows: False)
    assert measure_padding(mx.float32).decode_rows is None


@pytest.fixture(scope="module")
def decode_rows() -> int:
    rows = measure_padding(mx.float32).decode_rows
    assert rows in CANDIDATES  # this CPU has such a number
    return rows


@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a promise of the CPU")
@given(
    seed=st.integers(0, 1000),
    inner=st.sampled_from([48, 64, 576, 1536]),
    outer=st.sampled_from([96, 192, 576]),
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
