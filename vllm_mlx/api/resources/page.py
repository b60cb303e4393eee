"""``/``: the built-in page, one file without outside resources."""

from importlib import resources

import falcon.asgi

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class PageResource:
    def __init__(self) -> None:
        self._html = (resources.files("vllm_mlx.api") / "page.html").read_bytes()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = self._html
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("content-security-policy", POLICY)
        resp.set_header("cache-control", "no-cache")
        resp.set_header("referrer-policy", "no-referrer")

    on_head = on_get


class NoPageResource:
    """The page is switched off; ``HEAD /`` still answers clients that look whether we live."""

    async def on_head(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/plain"
