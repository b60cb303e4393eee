"""ASGI wrapper: a client that left cancels the work for it, streamed or not."""

import asyncio

from vllm_mlx.api.asgi import AsgiApp, Message, Receive, Scope, Send
from vllm_mlx.api.exchange import KEY


class CancelOnDisconnect:
    """Once the body has been read, a watcher waits for ``http.disconnect`` and cancels the task.

    Falcon asks for no further events after the body, so the watcher is the only reader.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = _Watch(receive, send)
        try:
            await self._app(scope, watch.receive, watch.send)
        except asyncio.CancelledError:
            if not watch.client_left:
                raise  # the server itself is stopping
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        finally:
            watch.stop()
            scope[KEY].client_left = watch.client_left


class _Watch:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._watcher: asyncio.Task[None] | None = None
        self._answered = False  # after the last byte, "disconnect" only says that it is over
        self.client_left = False

    async def receive(self) -> Message:
        if self._watcher is not None:
            await self._watcher
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_left = not self._answered
        elif not message.get("more_body", False):
            task = asyncio.current_task()
            assert task is not None  # a coroutine is run by a task
            self._watcher = asyncio.ensure_future(self._wait(task))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def _wait(self, task: "asyncio.Task[object]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:
            self.client_left = True
            task.cancel()

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
