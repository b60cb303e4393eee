"""``/openapi.json``: the description, made once."""

from typing import Any

import falcon.asgi
import msgspec

from vllm_mlx.api.body import write_json


class OpenApiResource:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = msgspec.Raw(msgspec.json.encode(document))

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        write_json(resp, self._document)
