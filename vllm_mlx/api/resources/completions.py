"""``/v1/completions``."""

import time
from collections.abc import Sequence
from functools import partial

import falcon.asgi

from vllm_mlx.api.answer import Question
from vllm_mlx.api.body import BodyType
from vllm_mlx.api.exchange import exchange_of
from vllm_mlx.api.request_id import new_id
from vllm_mlx.api.services import Services
from vllm_mlx.core.codec import TextCodec
from vllm_mlx.dialect import completions
from vllm_mlx.wire.openai_completions import CompletionRequest

COMPLETION = BodyType(CompletionRequest)


class CompletionsResource:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        own = self._services
        body = await own.bodies.read(req, resp, COMPLETION)
        model = own.served.resolve(body.model)
        completions.check_request(body)
        prompts = completions.to_prompts(body, own.served.card.vocab_tokens)
        encode = partial(
            encode_prompts, own.engine.codec, prompts, body.add_special_tokens is not False
        )
        ids = await own.offload.run(encode)
        texts = await self._texts(prompts) if body.echo else ()
        id, created = new_id("cmpl"), int(time.time())
        total = sum(len(prompt) for prompt in ids)
        question = Question(
            id=id,
            path=req.path,
            model=model,
            generations=completions.to_generations(
                body, ids, id=id, card=own.served.card, limits=own.limits
            ),
            prompt_tokens=total,
            stream=bool(body.stream),
            limit_seconds=own.responder.limit_seconds(body.timeout),
            started=exchange_of(req).started,
        )
        reply = completions.CompletionStream(
            body, id=id, created=created, model=model, prompt_texts=texts, prompt_tokens=total
        )
        fold = completions.CompletionFold(
            body, id=id, created=created, model=model, prompts=len(prompts)
        )
        await own.responder.respond(req, resp, question, reply, fold)

    async def _texts(self, prompts: Sequence[completions.Prompt]) -> list[str]:
        """What ``echo`` shows: a text prompt as it was given, ids as the text they stand for."""
        codec = self._services.engine.codec
        return await self._services.offload.run(
            lambda: [
                prompt if isinstance(prompt, str) else codec.decode(prompt) for prompt in prompts
            ]
        )


def encode_prompts(
    codec: TextCodec, prompts: Sequence[completions.Prompt], add_special_tokens: bool
) -> list[list[int]]:
    """Token ids of each prompt; ids pass as they are."""
    return [
        codec.encode(prompt, add_special_tokens=add_special_tokens)
        if isinstance(prompt, str)
        else prompt
        for prompt in prompts
    ]
