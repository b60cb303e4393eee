"""``/v1/chat/completions``."""

import time
from functools import partial

import falcon.asgi

from vllm_mlx.api.answer import Question
from vllm_mlx.api.body import BodyType
from vllm_mlx.api.exchange import exchange_of
from vllm_mlx.api.request_id import new_id
from vllm_mlx.api.services import Services
from vllm_mlx.dialect import chat
from vllm_mlx.dialect.chat_fold import ChatFold
from vllm_mlx.wire.openai_chat import ChatRequest

CHAT = BodyType(ChatRequest)


class ChatResource:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        own = self._services
        body = await own.bodies.read(req, resp, CHAT)
        model = own.served.resolve(body.model)
        chat.check_request(body)
        prompt_ids = await self._render(chat.to_template(body))
        id, created = new_id("chatcmpl"), int(time.time())
        question = Question(
            id=id,
            path=req.path,
            model=model,
            generations=chat.to_generations(
                body, prompt_ids, id=id, card=own.served.card, limits=own.limits
            ),
            prompt_tokens=len(prompt_ids),
            stream=bool(body.stream),
            limit_seconds=own.responder.limit_seconds(body.timeout),
            started=exchange_of(req).started,
        )
        reply = chat.ChatStream(
            body, id=id, created=created, model=model, prompt_tokens=len(prompt_ids)
        )
        fold = ChatFold(body, id=id, created=created, model=model)
        await own.responder.respond(req, resp, question, reply, fold)

    async def _render(self, call: chat.TemplateCall) -> list[int]:
        codec = self._services.engine.codec
        return await self._services.offload.run(
            partial(
                codec.render_chat,
                call.messages,
                add_generation_prompt=call.add_generation_prompt,
                continue_final_message=call.continue_final_message,
                template_arguments=call.template_arguments,
            )
        )
