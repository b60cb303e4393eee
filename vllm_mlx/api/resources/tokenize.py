"""``/tokenize`` and ``/detokenize``."""

from functools import partial

import falcon.asgi

from vllm_mlx.api.body import BodyType, write_json
from vllm_mlx.api.services import Services
from vllm_mlx.dialect.chat import TemplateCall, to_template_call
from vllm_mlx.dialect.sampling import check_token_ids
from vllm_mlx.errors import RequestError, UnsupportedField
from vllm_mlx.wire.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
)

TOKENIZE, DETOKENIZE = BodyType(TokenizeRequest), BodyType(DetokenizeRequest)


class TokenizeResource:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        own = self._services
        body = await own.bodies.read(req, resp, TOKENIZE)
        own.served.resolve(body.model)
        check_one_source(body)
        tokens = await own.offload.run(partial(self._encode, body))
        texts = None
        if body.return_token_strs:
            texts = [own.engine.codec.token_text(token)[0] for token in tokens]
        write_json(resp, TokenizeAnswer(len(tokens), own.served.card.context_tokens, tokens, texts))

    def _encode(self, body: TokenizeRequest) -> list[int]:
        codec = self._services.engine.codec
        if body.prompt is not None:
            return codec.encode(
                body.prompt, add_special_tokens=body.add_special_tokens is not False
            )
        call = template_call(body)
        return codec.render_chat(
            call.messages,
            add_generation_prompt=call.add_generation_prompt,
            continue_final_message=call.continue_final_message,
            template_arguments=call.template_arguments,
        )

    async def on_post_back(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Ids to text; also ids that are not whole characters, which become U+FFFD."""
        own = self._services
        body = await own.bodies.read(req, resp, DETOKENIZE)
        own.served.resolve(body.model)
        check_token_ids(body.tokens, own.served.card.vocab_tokens, "tokens")
        skip = body.skip_special_tokens is True
        decode = partial(own.engine.codec.decode, body.tokens, skip_special_tokens=skip)
        write_json(resp, DetokenizeAnswer(await own.offload.run(decode)))


def check_one_source(body: TokenizeRequest) -> None:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError(
            "Give either 'prompt' or 'messages'.", param="prompt", code="invalid_value"
        )
    for name in ("tools", "chat_template"):
        if getattr(body, name):
            raise UnsupportedField(name)


def template_call(body: TokenizeRequest) -> TemplateCall:
    return to_template_call(
        body.messages or [],
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        kwargs=body.chat_template_kwargs,
        named={},
    )
