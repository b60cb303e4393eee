"""``/v1/requests/{id}``: stop an answer by the id its client sees."""

import falcon.asgi

from vllm_mlx.api.body import write_json
from vllm_mlx.api.errors import ApiError
from vllm_mlx.api.running import RunningAnswers
from vllm_mlx.wire.status import Aborted


class RequestsResource:
    def __init__(self, running: RunningAnswers) -> None:
        self._running = running

    async def on_delete(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, answer_id: str
    ) -> None:
        """Its client still gets what was written so far, with finish_reason ``abort``."""
        if not self._running.abort(answer_id):
            raise ApiError(
                404,
                "No request of that id is running; it may have ended already.",
                param="id",
                code="request_not_found",
            )
        write_json(resp, Aborted(answer_id))

    on_post = on_delete
