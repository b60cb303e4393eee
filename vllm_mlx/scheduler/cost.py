"""How long a step takes on this machine: measured while serving, used to size prefill chunks.

The model is two numbers with context folded in, because they are always the latest: the time of a
step without prefill, by number of decode rows, and the time that one prefill token adds to a step.
"""

from math import exp

# Weight of the newest observation. Prefill follows growing context, so it follows quickly.
DECODE_WEIGHT = 0.15
PREFILL_WEIGHT = 0.3
SMALLEST_CHUNK = 8


class StepCost:
    """All times in seconds."""

    def __init__(self) -> None:
        self._decode: dict[int, float] = {}  # by bucket of rows
        self._per_prefill_token: float | None = None

    def observe(self, num_decode: int, prefill_tokens: int, seconds: float) -> None:
        """One step took so long, from the end of the one before it."""
        if prefill_tokens == 0:
            bucket = _bucket(num_decode)
            known = self._decode.get(bucket)
            # one outlier (a page fault, a neighbour) must not stretch later steps
            sample = seconds if known is None else min(seconds, 2 * known)
            self._decode[bucket] = _moved(known, sample, DECODE_WEIGHT)
            return
        base = self.decode_seconds(num_decode) if num_decode else 0.0
        if base is None:
            return
        share = max(0.0, seconds - base) / prefill_tokens
        self._per_prefill_token = _moved(self._per_prefill_token, share, PREFILL_WEIGHT)

    def decode_seconds(self, num_decode: int) -> float | None:
        """A step of so many decode rows and no prefill; None before anything was measured."""
        if not self._decode:
            return None
        bucket = _bucket(num_decode)
        nearest = min(self._decode, key=lambda known: abs(known - bucket))
        return self._decode[nearest]

    def chunk_for(self, num_decode: int, step_seconds: float | None, stretch: float) -> int | None:
        """Prefill tokens that keep a step within ``step_seconds``, or within ``stretch`` times a
        pure decode step; None where nothing limits it (no decode rows, or nothing measured)."""
        if num_decode == 0:
            return None
        base = self.decode_seconds(num_decode)
        if base is None or self._per_prefill_token is None:
            return SMALLEST_CHUNK
        allowed = step_seconds if step_seconds is not None else stretch * base
        room = (allowed - base) / max(self._per_prefill_token, 1e-9)
        return max(SMALLEST_CHUNK, int(min(room, 1e9)))


def _bucket(rows: int) -> int:
    """Powers of two: 1, 2, 3-4, 5-8, ... as 0, 1, 2, 3, ..."""
    return max(0, rows - 1).bit_length()


def _moved(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)


def estimate_wait_seconds(waiting: int, step_seconds: float | None) -> int:
    """A whole number of seconds for Retry-After: longer queues, longer waits, at most a minute."""
    base = 0.05 if step_seconds is None else step_seconds
    return max(1, min(60, round(base * 20 * (1 - exp(-waiting / 64)) * 10)))
