"""The answers in progress, by the id that their clients see."""

from collections.abc import Iterator

from vllm_mlx.api.answer import Answer


class RunningAnswers:
    """Filled and emptied on the event loop."""

    def __init__(self) -> None:
        self._by_id: dict[str, Answer] = {}

    def add(self, answer: Answer) -> None:
        self._by_id[answer.id] = answer
        answer.on_close(lambda: self._by_id.pop(answer.id, None))

    def abort(self, id: str) -> bool:
        """Whether there was such an answer. Its client gets what there is, as ``abort``."""
        answer = self._by_id.get(id)
        if answer is None:
            return False
        answer.abort()
        return True

    def __iter__(self) -> Iterator[Answer]:
        return iter(list(self._by_id.values()))
