"""What the engine asks of a scheduler."""

from typing import Protocol

from vllm_mlx.cache.base import KvCache
from vllm_mlx.core.sequence import Sequence
from vllm_mlx.core.step import StepPlan
from vllm_mlx.scheduler.cost import StepCost
from vllm_mlx.scheduler.waiting import WaitingQueue


class Scheduler(Protocol):
    """Decides, once a step, which sequences get how many tokens."""

    max_running: int  # sequences in one batch
    max_waiting: int  # sequences that may wait; beyond it new ones are refused

    def plan(
        self, running: list[Sequence], waiting: WaitingQueue, kv: KvCache, cost: StepCost
    ) -> StepPlan:
        """Grant tokens for one step.

        Takes sequences out of ``waiting`` into ``running`` (admit), puts some back (preempt), and
        takes blocks for what it grants. Nobody gets more tokens than it has left to compute.
        """
        ...
