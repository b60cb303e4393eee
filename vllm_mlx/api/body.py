"""Request bodies: bounded read, typed decode, and what to do with fields nobody knows."""

import re
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import falcon.asgi
import msgspec

from vllm_mlx.api.errors import ApiError
from vllm_mlx.api.exchange import exchange_of
from vllm_mlx.api.unknown_fields import Shape, find_unknown, shape_of
from vllm_mlx.errors import RequestError

T = TypeVar("T")

IGNORED_HEADER = "x-ignored-fields"
PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key` in `)?\$(?P<path>.*)`)?$", re.DOTALL)
MEMBER = re.compile(r"Object (?:missing required|contains unknown) field `(.+)`")
JSON_TYPES = re.compile(r"application/(?:json|[\w.+-]+\+json)|text/json")
FORM_TYPE = "application/x-www-form-urlencoded"  # what `curl -d` claims; the body is JSON


class BodyType(Generic[T]):
    """A request type with its decoder; made once, at import."""

    def __init__(self, type_: type[T]) -> None:
        self.type = type_
        self._decode = msgspec.json.Decoder(type_).decode
        self._shape = shape_of(type_) or Shape()

    def decode(self, data: bytes) -> T:
        """Raises RequestError that names the field, or says that this is not JSON."""
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise self._refusal(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(
                f"The body is not valid JSON: {error}", code="invalid_json"
            ) from None

    def unknown_fields(self, data: bytes) -> list[str]:
        """Fields of a valid body that the type does not know."""
        return find_unknown(msgspec.json.decode(data), self._shape)

    def _refusal(self, words: str) -> RequestError:
        found = PLACE.match(words)
        what, path = (found["what"], found["path"] or "") if found else (words, "")
        path = path.removeprefix(".")
        if member := MEMBER.search(what):
            path = f"{path}.{member[1]}" if path else member[1]
            what = "the field is required"
        elif what.startswith("Invalid value "):
            what = f"{what[0].lower()}{what[1:]}{self._choices(path)}"
        elif what.startswith("Expected "):
            what = "e" + what[1:]
        named = f"Invalid '{path}': {what}." if path else f"Invalid body: {what}."
        return RequestError(named, param=path or None, code="invalid_value")

    def _choices(self, path: str) -> str:
        """The tags that would have been right at ``path``, which ends in the tag field."""
        shape: Shape | None = self._shape
        for name in re.sub(r"\[[^\]]*\]", "", path).split(".")[:-1]:
            shape = self._step(shape, name)
        if shape is None or not shape.by_tag:
            return ""
        return f", expected one of {', '.join(sorted(shape.by_tag))}"

    @staticmethod
    def _step(shape: Shape | None, name: str) -> Shape | None:
        if shape is None or name in shape.below:
            return None if shape is None else shape.below[name]
        holders = (held for held in shape.by_tag.values() if name in held.below)
        holder = next(holders, None)
        return None if holder is None else holder.below[name]


class BodyReader:
    """Reads bodies within a limit. ``strict`` refuses unknown fields instead of naming them."""

    def __init__(self, limit_bytes: int, strict: bool) -> None:
        self._limit_bytes, self._strict = limit_bytes, strict

    async def read(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, kind: BodyType[T]
    ) -> T:
        """The typed body. Raises ApiError (413, 415) and RequestError (400)."""
        check_content_type(req)
        data = await self._read_bytes(req)
        body = kind.decode(data)
        unknown = kind.unknown_fields(data)
        if unknown and self._strict:
            raise RequestError(
                f"Unknown field '{unknown[0]}'.", param=unknown[0], code="unknown_field"
            )
        if unknown:
            names = to_header(unknown)
            resp.set_header(IGNORED_HEADER, names)
            exchange_of(req).notes["ignored_fields"] = names
        return body

    async def _read_bytes(self, req: falcon.asgi.Request) -> bytes:
        if (req.content_length or 0) > self._limit_bytes:
            raise self._too_large()
        data = await req.stream.read(self._limit_bytes + 1)
        if len(data) > self._limit_bytes:
            raise self._too_large()
        return bytes(data)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body is larger than {self._limit_bytes / 2**20:g} MiB.",
            code="body_too_large",
        )


def check_content_type(req: falcon.asgi.Request) -> None:
    """JSON, nothing, or curl's form type; the latter not from a browser, which could forge it."""
    given = (req.content_type or "").partition(";")[0].strip().lower()
    if not given or JSON_TYPES.fullmatch(given):
        return
    if given == FORM_TYPE and req.get_header("origin") is None:
        return
    raise ApiError(
        415,
        "The body must be JSON (content-type: application/json).",
        code="unsupported_media_type",
    )


def to_header(names: Iterable[str]) -> str:
    """Names as a header value: printable ASCII without commas inside, at most 1,000 characters."""
    clean = (re.sub(r"[^\x21-\x2b\x2d-\x7e]", "?", name[:80]) for name in names)
    return ",".join(clean)[:1000]


def write_json(resp: falcon.asgi.Response, body: Any) -> None:
    resp.data = msgspec.json.encode(body)
    resp.content_type = falcon.MEDIA_JSON
