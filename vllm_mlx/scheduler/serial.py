"""``scheduler=serial``: one sequence at a time, for models that must not be batched."""

from vllm_mlx.scheduler.continuous import ContinuousScheduler


class SerialScheduler(ContinuousScheduler):
    """The continuous scheduler with room for one."""

    def __init__(self, max_waiting: int, prefill_chunk_tokens: int) -> None:
        super().__init__(
            max_running=1,
            max_waiting=max_waiting,
            step_tokens=prefill_chunk_tokens + 1,
            prefill_chunk_tokens=prefill_chunk_tokens,
            stretch=1.0,
            target_itl_ms=None,
        )
