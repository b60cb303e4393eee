"""The queue's order."""

from hypothesis import given
from hypothesis import strategies as st

from tests.sequences import make_sequence
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.scheduler.waiting import WaitingQueue


def in_order(sequences: list[Sequence]) -> list[Sequence]:
    return sorted(sequences, key=lambda s: (s.generation.priority, s.number))


@given(
    priorities=st.lists(st.integers(-2, 2), max_size=12),
    moves=st.lists(st.tuples(st.sampled_from(["take", "remove", "back"]), st.integers(0, 11))),
)
def test_lower_priority_first_then_arrival(
    priorities: list[int], moves: list[tuple[str, int]]
) -> None:
    queue = WaitingQueue()
    here = [make_sequence(number=i, priority=p) for i, p in enumerate(priorities)]
    for sequence in here:
        queue.add(sequence)
    gone: list[Sequence] = []
    for move, place in moves:
        if move == "take" and here:
            assert queue.first() is in_order(here)[0]
            gone.append(queue.take_first())
            here.remove(gone[-1])
        elif move == "remove" and place < len(here):
            queue.remove(here[place])
            gone.append(here.pop(place))
        elif move == "back" and gone:  # preempted: to its old place
            here.append(gone.pop(place % len(gone)))
            queue.add(here[-1])
        assert list(queue) == in_order(here)
        assert len(queue) == len(here)
    assert queue.clear() == in_order(here)
    assert queue.first() is None
    assert len(queue) == 0


def test_equal_sequences_are_told_apart() -> None:
    queue = WaitingQueue()
    one, other = make_sequence(number=1), make_sequence(number=1)
    queue.add(one)
    queue.add(other)
    queue.remove(other)
    assert list(queue) == [one]
    assert queue.first() is one
