"""Error envelopes of the vendors."""

from msgspec import Struct


class OpenAIError(Struct):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorBody(Struct):
    error: OpenAIError
