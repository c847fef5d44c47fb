"""Answers in the shape of OpenAI's API, on localhost, for demos and judges.

Requests that come together are written together, see batching.py. There is no key, and no log
of what is asked.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from rlhf_jax.data.record_json import check_text
from rlhf_jax.data.records import RecordError
from rlhf_jax.feedback.guard import Headers, content_type, read_body
from rlhf_jax.files import JsonError, parse_json
from rlhf_jax.writing.batching import Batcher, Busy, Job
from rlhf_jax.writing.openai_replies import Reply
from rlhf_jax.writing.openai_requests import ApiError, Request, parse
from rlhf_jax.writing.prompts import Prompts
from rlhf_jax.writing.response import CANCELLED, Response, row_seed
from rlhf_jax.writing.writer import Writer

LARGEST = 2**20  # bytes of a request
LOCAL = ("127.0.0.1", "localhost")
LOOK_SECONDS = 0.5  # between two looks whether who asked is still there
END_SECONDS = 5  # for what is being written when Ctrl-C comes


class Server:
    """`writer` under the name `model`; `temperature` and `seed` are for requests that name none."""

    def __init__(self, writer: Writer, prompts: Prompts, model: str, temperature: float, seed: int):
        self._writer, self._prompts, self._model = writer, prompts, model
        self._temperature, self._seeds = temperature, np.random.default_rng(seed)
        self._started = int(time.time())
        self._batcher = Batcher(writer)

    def app(self, hosts: Sequence[str]) -> ASGIApp:
        """The application; it answers to the names of `hosts` alone, "*" for all."""
        app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/models/{model:path}", self.one_model),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
            exception_handlers={ApiError: on_error, HTTPException: on_http_error, Exception: on_failure},
            lifespan=self._lifespan,
        )
        return Headers(app)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._batcher.stop)

    def end(self) -> None:
        """Whatever is being written ends, and so does all that is asked from now on."""
        self._batcher.end()

    async def models(self, http: HttpRequest) -> HttpResponse:
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def one_model(self, http: HttpRequest) -> HttpResponse:
        if (asked := http.path_params["model"]) != self._model:
            told = f"the model {asked!r} is not here; there is {self._model!r}"
            raise ApiError(told, "model", 404, "model_not_found")
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        return {"id": self._model, "object": "model", "created": self._started, "owned_by": "rlhf_jax"}

    async def chat(self, http: HttpRequest) -> HttpResponse:
        return await self._answer(http, is_chat=True)

    async def complete(self, http: HttpRequest) -> HttpResponse:
        return await self._answer(http, is_chat=False)

    async def _answer(self, http: HttpRequest, is_chat: bool) -> HttpResponse:
        body = await read_json(http)
        request = parse(body, is_chat, self._model, self._prompts, self._temperature)
        responses = self._responses(request)
        reply = Reply(request, self._model, responses)
        progress = self._progress(http, responses)
        if request.stream:
            # The first step, so that an error before any text is an error, and not a stream that has one.
            await anext(progress, None)
            return StreamingResponse(_stream(reply, progress), media_type="text/event-stream")
        async for _ in progress:
            pass
        return JSONResponse(reply.whole(self._writer.tokenizer))

    def _responses(self, request: Request) -> list[Response]:
        """What is to be written for a request, prompt by prompt."""
        seed = int(self._seeds.integers(2**63)) if request.seed is None else request.seed % 2**64
        try:
            return [
                self._writer.response(
                    prompt.ids,
                    row_seed(seed, i, j),
                    request.temperature,
                    request.max_tokens,
                    stop=request.stop,
                    strip=request.is_chat,
                )
                for i, prompt in enumerate(request.prompts)
                for j in range(request.samples)
            ]
        except RecordError as error:
            param = "messages" if request.is_chat else "prompt"
            raise ApiError(str(error), param, code="context_length_exceeded") from None

    async def _progress(self, http: HttpRequest, responses: Sequence[Response]) -> AsyncIterator[None]:
        """Has the responses written, and yields whenever they are longer; ends when they have ended."""
        loop, some = asyncio.get_running_loop(), asyncio.Event()
        failures: list[Exception] = []

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # of a loop that has ended before the thread
                loop.call_soon_threadsafe(some.set)

        def failed(error: Exception) -> None:
            failures.append(error)
            changed()

        try:
            self._batcher.submit(Job(responses, changed, failed))
        except Busy:
            raise ApiError("too many requests wait already; try again later", status=429) from None
        try:
            while not all(one.finish for one in responses):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(some.wait(), LOOK_SECONDS)
                some.clear()
                if failures:
                    raise failures[0]
                if await http.is_disconnected():
                    return
                yield
            if any(one.finish == CANCELLED for one in responses):
                raise ApiError("the server ends", status=503)
        finally:
            for one in responses:
                one.cancel()


async def _stream(reply: Reply, progress: AsyncIterator[None]) -> AsyncIterator[str]:
    """The events of a stream, an error among them, since the status has been sent."""
    for piece in (*reply.beginning(), *reply.pieces()):
        yield _event(piece)
    try:
        async for _ in progress:
            for piece in reply.pieces():
                yield _event(piece)
        for piece in (*reply.pieces(), *reply.end()):
            yield _event(piece)
    except ApiError as error:
        yield _event(error.body)
    except Exception as error:
        yield _event(failure(error).body)
        raise
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def read_json(http: HttpRequest) -> Any:
    """The JSON that is sent. Raises ApiError where it is none, and HTTPException where it is too much."""
    if content_type(http) != "application/json":
        raise ApiError("the Content-Type should be application/json", status=415)
    try:
        value = parse_json(await read_body(http, LARGEST))
        check_text(value)
    except JsonError as error:
        raise ApiError(f"the body is {error}") from None
    except RecordError as error:
        raise ApiError(str(error)) from None
    return value


def failure(error: Exception) -> ApiError:
    """What is told of an error that is ours; the log has the traceback."""
    return ApiError(f"the server failed: {type(error).__name__}", status=500)


def on_error(http: HttpRequest, error: Exception) -> HttpResponse:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    return JSONResponse(error.body, error.status, headers)


def on_http_error(http: HttpRequest, error: Exception) -> HttpResponse:
    assert isinstance(error, HTTPException)
    told = error.detail
    if error.status_code in (404, 405):
        told = f"{http.method} {http.url.path} is not here: POST /v1/chat/completions or /v1/completions, "
        told += "GET /v1/models"
    return JSONResponse(ApiError(told).body, error.status_code, error.headers)


def on_failure(http: HttpRequest, error: Exception) -> HttpResponse:
    return JSONResponse(failure(error).body, 500)


def run(server: Server, listening: socket.socket, hosts: Sequence[str]) -> None:
    """Serves until Ctrl-C."""
    config = uvicorn.Config(
        server.app(hosts),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):
        _Uvicorn(config, server.end).run(sockets=[listening])


class _Uvicorn(uvicorn.Server):
    """Ends what is being written before it waits for those who asked to have their answers."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]):
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)
