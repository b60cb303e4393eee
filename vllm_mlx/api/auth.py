"""Who may call: an API key by ``Authorization: Bearer`` or ``x-api-key``."""

import hmac
from collections.abc import Iterable

import falcon.asgi

from vllm_mlx.api.errors import ApiError

BEARER = "bearer "


class RequireKey:
    """Falcon middleware. ``open_routes`` are (method, path) pairs that need no key."""

    def __init__(self, key: str, open_routes: Iterable[tuple[str, str]]) -> None:
        self._key = key.encode()
        self._open_routes = frozenset(open_routes)

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if req.method == "OPTIONS" or (req.method, req.path) in self._open_routes:
            return
        if not any(self._is_key(given) for given in given_keys(req)):
            raise ApiError(
                401,
                "Missing or wrong API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                type="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("latin-1"), self._key)  # bytes as sent


def given_keys(req: falcon.asgi.Request) -> list[str]:
    """Both places are looked at: some clients send a placeholder in one of them."""
    keys = []
    authorization = req.get_header("authorization")
    if authorization and authorization[: len(BEARER)].lower() == BEARER:
        keys.append(authorization[len(BEARER) :].strip())
    if header := req.get_header("x-api-key"):
        keys.append(header.strip())
    return keys
