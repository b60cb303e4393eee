"""Messages as the text of a prompt, by the model's chat template. Token ids are not here."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from vllm_mlx.errors import TemplateFailed

Messages = list[dict[str, Any]]
PROBE_TEXT = "chat template probe"
PROBE_KEY = "probe_key"
REMEMBERED_TEMPLATES = 32  # a request may bring its own, so there is no end of them
# Template variables that are fields of the request, not arguments of the template
RESERVED = frozenset(
    {
        "messages",
        "tools",
        "chat_template",
        "conversations",
        "return_assistant_tokens_mask",
    }
)


class Traits(NamedTuple):
    """What a template expects of messages."""

    content: Literal["string", "parts"]
    arguments: Literal["object", "string"]  # of a tool call


class ChatTemplate:
    """The template of one tokenizer. Thread-safe."""

    def __init__(
        self,
        tokenizer: Any,
        chat_function: Callable[..., str] | None = None,
        override: str | None = None,
    ) -> None:
        """``chat_function`` stands in for a model that has no template of its own in Jinja.

        ``override`` is Jinja text that is used instead of either.
        """
        self._tokenizer = tokenizer
        self._function = chat_function if override is None else None
        self._override = override
        self._traits = lru_cache(maxsize=REMEMBERED_TEMPLATES)(self._probe)

    @property
    def exists(self) -> bool:
        own = self._tokenizer.chat_template is not None
        return own or self._function is not None or self._override is not None

    def source(self, tools: list[dict[str, Any]] | None = None) -> str | None:
        """The Jinja text used with or without tools; None if there is none."""
        if self._override is not None:
            return self._override
        if self._tokenizer.chat_template is None:
            return None
        try:
            text: str = self._tokenizer.get_chat_template(None, tools)
        except ValueError:  # several templates, none of them the default
            return None
        return text

    def render(
        self,
        messages: Messages,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        arguments: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> str:
        """The prompt's text. Raises TemplateFailed with the template's own words."""
        given = dict(arguments or {})
        self._check(messages, given)
        add_generation_prompt = bool(given.pop("add_generation_prompt", add_generation_prompt))
        if given.pop("continue_final_message", continue_final_message):
            add_generation_prompt, continue_final_message = False, True
        options = given | {
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
        }
        if chat_template is None and self._function is not None:
            adapted = adapt(messages, Traits("string", "string"))
            return self._guarded(lambda: self._call_function(adapted, options), "messages")
        source = chat_template or self.source(tools)
        if source is None:
            raise TemplateFailed(
                "This model has no chat template; use /v1/completions or give 'chat_template'.",
                param="messages",
                code="no_chat_template",
            )
        adapted = adapt(messages, self._traits(source))
        param = "messages" if chat_template is None else "chat_template"
        return self._guarded(lambda: self._render(source, adapted, options), param)

    def _check(self, messages: Messages, arguments: dict[str, Any]) -> None:
        if not messages:
            raise TemplateFailed("There are no messages.", param="messages")
        if taken := RESERVED & arguments.keys():
            raise TemplateFailed(
                f"'{min(taken)}' is a field of the request, not an argument of the template.",
                param="chat_template_kwargs",
            )

    def _call_function(self, messages: Messages, options: dict[str, Any]) -> str:
        if self._function is None:
            raise ValueError("there is no template function")
        return self._function(messages, **options)

    def _render(self, source: str, messages: Messages, options: dict[str, Any]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        cleaned = [{k: v for k, v in m.items() if v is not None} for m in messages]
        named = self._tokenizer.special_tokens_map
        render: Any = render_jinja_template
        variables = {**named, **options}
        rendered, _ = render(conversations=[cleaned], chat_template=source, **variables)
        text: str = rendered[0]
        return text

    def _guarded(self, render: Callable[[], str], param: str) -> str:
        try:
            return render()
        except Exception as error:  # a template is a program: it may raise anything
            words = " ".join(str(error).split("\nRendered chat")[0].split())[:500]
            raise TemplateFailed(
                f"The chat template refused the messages: {words or type(error).__name__}",
                param=param,
                code="chat_template_failed",
            ) from error

    def _attempt(self, source: str, messages: Messages) -> str:
        options = {"tools": None, "add_generation_prompt": False, "continue_final_message": False}
        try:
            return self._render(source, messages, options)
        except Exception:  # the probe asks whether it renders; why not is no matter
            return ""

    def _probe(self, source: str) -> Traits:
        """Render two made-up conversations and see in which form their text comes through."""
        plain = [{"role": "user", "content": PROBE_TEXT}]
        parts = adapt(plain, Traits("parts", "string"))
        content: Literal["string", "parts"] = "string"
        if PROBE_TEXT not in self._attempt(source, plain):
            content = "parts" if PROBE_TEXT in self._attempt(source, parts) else "string"
        text = json.dumps({PROBE_KEY: "value"})
        as_object = self._attempt(source, _probe_call(text, Traits(content, "object")))
        as_string = self._attempt(source, _probe_call(text, Traits(content, "string")))
        # a template that wants a string prints an object as Python does, or fails
        if (PROBE_KEY in as_object and f"'{PROBE_KEY}'" not in as_object) or text not in as_string:
            return Traits(content, "object")
        return Traits(content, "string")


def _probe_call(arguments: str, traits: Traits) -> Messages:
    call = {"name": "probe_tool", "arguments": arguments}
    calls = [{"id": "probe0000", "type": "function", "function": call}]
    messages: Messages = [
        {"role": "user", "content": PROBE_TEXT},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "probe0000", "name": "probe_tool", "content": "done"},
    ]
    return adapt(messages, traits)


def adapt(messages: Messages, traits: Traits) -> Messages:
    """Copies of the messages in the form a template expects.

    Text given as a string and as a list of text parts comes out the same; parts are joined by
    newlines where the template wants strings.
    """
    return [_adapt_message(message, traits) for message in messages]


def _adapt_message(message: dict[str, Any], traits: Traits) -> dict[str, Any]:
    adapted = dict(message)
    content = message.get("content")
    if isinstance(content, list) and all(_is_text(part) for part in content):
        content = "\n".join(part["text"] for part in content)
    if isinstance(content, str) and traits.content == "parts":
        content = [{"type": "text", "text": content}]
    if content is not None:
        adapted["content"] = content
    if calls := message.get("tool_calls"):
        adapted["tool_calls"] = [_adapt_call(call, traits.arguments) for call in calls]
    return adapted


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part["text"], str)


def _adapt_call(call: dict[str, Any], form: Literal["object", "string"]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    if form == "object" and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except ValueError:
            parsed = arguments  # a model's broken JSON stays what it is
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif form == "string" and isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}
