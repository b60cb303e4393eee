"""The exception tree. Each carries data; wording for clients happens in ``api/errors.py``.

VllmMlxError
├── UsageError               the command line itself is wrong: exit code 2
├── ConfigError              a composed value is wrong: start-up ends, exit code 1
├── ModelError               a checkpoint cannot be found, read or run
├── RequestError             the caller's fault (400)
│   ├── PromptTooLong        prompt_tokens > context_tokens
│   ├── UnsupportedField     a field that would change the answer and is not implemented
│   ├── UnknownModel         (404)
│   └── TemplateFailed       the chat template refused the messages
├── CapacityError            not now (429 or 503), with retry_after_seconds
│   └── QueueFull
├── RequestTimedOut          the request's own time limit, or the operator's, has passed (504)
├── GenerationFailed         this sequence failed, the others go on (500)
└── EngineStopped            starting, draining, stopped or dead (503)
"""


class VllmMlxError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(VllmMlxError):
    """The command line itself is wrong, before any configuration: one line, exit code 2."""


class ConfigError(VllmMlxError):
    """A composed value is wrong. ``path`` is the dotted key, where known."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class ModelError(VllmMlxError):
    """A checkpoint cannot be found, read or run; the message says which and what to do."""


class RequestError(VllmMlxError):
    """The caller's fault. ``param`` is the field in the caller's body, ``code`` a stable word."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


class PromptTooLong(RequestError):
    """The prompt alone fills the context, or more."""

    def __init__(self, prompt_tokens: int, context_tokens: int, param: str = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens. However, your prompt "
            f"has {prompt_tokens} tokens, which leaves no room for a completion. "
            f"(prompt is too long: {prompt_tokens} tokens > {context_tokens} maximum)",
            param=param,
            code="context_length_exceeded",
        )
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens


class UnsupportedField(RequestError):
    """A field of the official API that changes the answer and is not implemented here."""

    def __init__(self, param: str, why: str | None = None) -> None:
        super().__init__(
            why or f"'{param}' is not supported by this server.",
            param=param,
            code="unsupported_parameter",
        )


class UnknownModel(RequestError):
    """No model of that name is served."""

    def __init__(self, model: str, served: tuple[str, ...]) -> None:
        super().__init__(
            f"The model '{model}' does not exist. Served here: {', '.join(served)}.",
            param="model",
            code="model_not_found",
        )
        self.model, self.served = model, served


class TemplateFailed(RequestError):
    """The chat template refused the messages or its arguments."""


class CapacityError(VllmMlxError):
    """Not now. ``retry_after_seconds`` is an estimate."""

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.message, self.retry_after_seconds = message, retry_after_seconds


class QueueFull(CapacityError):
    """The waiting queue is at its cap."""


class RequestTimedOut(VllmMlxError):
    """The answer took longer than the request or the operator allows."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"The answer took longer than {limit_seconds:g} seconds.")
        self.limit_seconds = limit_seconds


class GenerationFailed(VllmMlxError):
    """One sequence failed (NaN logits, an exception in its own row); the others go on."""


class EngineStopped(VllmMlxError):
    """The engine does not take work: starting, draining, stopped or dead."""
