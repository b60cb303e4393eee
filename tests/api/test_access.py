"""Who may call, how often, from which page; and the description of it all."""

import json
import re
from typing import Any

import pytest

from tests.asgi_driver import chat_body, serving, settings
from tests.fakes import FakeEngine, say
from vllm_mlx.api.app import create_app
from vllm_mlx.api.rate_limit import MOST_CLIENTS, RateLimit
from vllm_mlx.errors import ConfigError

pytestmark = pytest.mark.anyio


async def test_key_by_either_header() -> None:
    async with serving(FakeEngine(say("x")), api_key="s€cret") as client:
        sent = "Bearer s€cret".encode().decode("latin-1")  # headers are bytes
        named = {"authorization": sent}
        assert (await client.get("/v1/models", headers=named)).status == 200
    async with serving(FakeEngine(say("x")), api_key="secret") as client:

        async def reply(**headers: str) -> Any:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.post("/v1/chat/completions", chat_body(), headers=named)

        assert (await reply(authorization="Bearer secret")).status == 200
        assert (await reply(authorization="bearer secret")).status == 200
        assert (await reply(x_api_key="secret")).status == 200
        assert (await reply(authorization="Bearer none", x_api_key="secret")).status == 200
        for wrong in (
            {},
            {"authorization": "Bearer secre"},
            {"authorization": "Basic secret"},
            {"authorization": "secret"},
            {"x_api_key": ""},
            {"x_api_key": "s\xe9cret"},
        ):
            refused = await reply(**wrong)
            assert refused.status == 401, wrong
            assert refused.error["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ConfigError, match=r"api\.api_key"):
        create_app(FakeEngine(), settings(api_key=""))


async def test_what_is_open_with_a_key() -> None:
    async with serving(FakeEngine(say("x")), api_key="secret") as client:
        for path in ("/", "/health", "/ready", "/version"):
            assert (await client.get(path)).status == 200, path
        for path in ("/", "/health"):
            assert (await client.get(path, method="HEAD")).status == 200, path
        for path in ("/v1/models", "/v1/status", "/metrics", "/openapi.json", "/nothing"):
            assert (await client.get(path)).status == 401, path


async def test_rate_limit_is_per_address() -> None:
    async with serving(FakeEngine(say("x")), rate_limit_per_minute=2) as client:

        async def chat(address: str, key: str = "") -> Any:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return await client.post(
                "/v1/chat/completions", chat_body(), client=address, headers=headers
            )

        assert (await chat("10.0.0.1")).status == 200
        assert (await chat("10.0.0.1")).status == 200
        refused = await chat("10.0.0.1", key="another")
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert (await chat("10.0.0.2")).status == 200
        assert (await client.get("/v1/models")).status == 200, "reading is free"


def test_rate_limit_refills_and_forgets() -> None:
    now = 0.0
    limit = RateLimit(60, clock=lambda: now)
    assert [limit.take("a") for _ in range(60)] == [0.0] * 60
    assert limit.take("a") == pytest.approx(1.0)
    now = 0.5
    assert limit.take("a") == pytest.approx(0.5)
    now = 1.0
    assert limit.take("a") == 0.0
    for i in range(MOST_CLIENTS + 10):
        limit.take(f"client {i}")
    assert len(limit._buckets) == MOST_CLIENTS


async def test_cross_origin() -> None:
    good, bad = {"origin": "https://good.example"}, {"origin": "https://bad.example"}
    asking = {"access-control-request-method": "POST"}
    engine = FakeEngine(say("x"))
    async with serving(engine, cors_origins=["https://good.example"], api_key="k") as client:
        path = "/v1/chat/completions"
        preflight = await client.get(path, method="OPTIONS", headers=good | asking)
        foreign = await client.get(path, method="OPTIONS", headers=bad | asking)
        refused = await client.post(path, chat_body(), headers=good)
        served = await client.post(path, chat_body(stream=True), headers=good | {"x-api-key": "k"})
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://good.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in foreign.headers
    for reply, status in ((refused, 401), (served, 200)):
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == "https://good.example"
        assert "x-ignored-fields" in reply.headers["access-control-expose-headers"]


async def test_no_cross_origin_by_default() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        reply = await client.get("/v1/models", headers={"origin": "https://a.example"})
        anyone = await client.get("/", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in reply.headers
    assert "access-control-allow-origin" not in anyone.headers


async def test_page() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        page, head = await client.get("/"), await client.get("/", method="HEAD")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (head.status, head.body) == (200, b"")
    text = page.body.decode()
    outside = re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:)([^"'\s>]+)|url\(|@import""", text)
    assert outside == [], "the page needs nothing but itself"
    async with serving(FakeEngine(say("x")), page=False) as client:
        assert (await client.get("/")).status == 405
        assert (await client.get("/", method="HEAD")).status == 200


async def test_description_covers_the_routes() -> None:
    async with serving(FakeEngine(say("x"))) as client:
        document = (await client.get("/openapi.json")).json
        for path, methods in document["paths"].items():
            for method in methods:
                reply = await client.get(
                    path.replace("{", "").replace("}", ""), method=method.upper()
                )
                assert reply.status not in (405, 500), (method, path, reply.body)
    assert document["openapi"] == "3.1.0"
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ChatRequest"
    }
    temperature = document["components"]["schemas"]["ChatRequest"]["properties"]["temperature"]
    assert {"type": "number", "minimum": 0, "maximum": 2} in temperature["anyOf"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    assert document["paths"]["/v1/models/{model_id}"]["get"]["parameters"][0]["name"] == "model_id"
