"""``/v1/models``: every name the model answers to."""

import falcon.asgi

from vllm_mlx.api.body import write_json
from vllm_mlx.api.served import ServedModel
from vllm_mlx.wire.openai_models import ModelList


class ModelsResource:
    def __init__(self, served: ServedModel) -> None:
        self._served = served

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        entries = [self._served.describe(name) for name in self._served.names]
        write_json(resp, ModelList(entries))

    async def on_get_one(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, model_id: str
    ) -> None:
        write_json(resp, self._served.describe(self._served.resolve(model_id)))
