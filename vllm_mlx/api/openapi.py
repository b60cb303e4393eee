"""The OpenAPI 3.1 document, from the same table that the routes are made of."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vllm_mlx.api.routes import Operation, Route
from vllm_mlx.wire.error_bodies import OpenAIErrorBody

Json = dict[str, Any]
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def to_openapi(routes: Sequence[Route], version: str) -> Json:
    """The document. Each type appears once, under its own name, in ``components``."""
    types = sorted({*_types(routes), OpenAIErrorBody}, key=lambda type_: type_.__name__)
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in routes:
        path = PARAMETER.sub(r"{\1}", route.path)
        entry = paths.setdefault(path, {})
        for operation in route.operations:
            entry[operation.method.lower()] = _operation(operation, route.path, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "vllm-mlx", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _types(routes: Iterable[Route]) -> set[type]:
    operations = [operation for route in routes for operation in route.operations]
    found = {type_ for op in operations for type_ in (op.request, op.answer, op.chunk)}
    return {type_ for type_ in found if type_ is not None}


def _operation(operation: Operation, path: str, refs: dict[type, Json]) -> Json:
    said: Json = {"summary": operation.summary, "responses": _responses(operation, refs)}
    if names := PARAMETER.findall(path):
        said["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.request is not None:
        content = {"application/json": {"schema": refs[operation.request]}}
        said["requestBody"] = {"required": True, "content": content}
    if operation.needs_key:
        said["security"] = [{"bearer": []}, {"x-api-key": []}, {}]
    return said


def _responses(operation: Operation, refs: dict[type, Json]) -> Json:
    content: Json = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": refs[operation.answer]}
    elif operation.method != "HEAD":
        content[operation.media_type] = {"schema": {"type": "string"}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": refs[operation.chunk]}
    responses: Json = {"200": {"description": "The answer.", "content": content}}
    error = {"application/json": {"schema": refs[OpenAIErrorBody]}}
    for status in operation.errors:
        responses[str(status)] = {"description": "An error.", "content": error}
    return responses
