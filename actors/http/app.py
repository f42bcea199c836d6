"""The routes.

/v1/chat/completions  /v1/completions  /v1/models     as OpenAI's clients call them
/v1/knowledge  /v1/knowledge/documents                what is known, and what is remembered
/v1/documents ...                                     publish, delete, ask what became of it
/health  /ready  /metrics  /                          for machines, and for people
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from actors.http.config import HttpConfig, Use
from actors.http.documents import DocumentRequest, fate_of, landed, page_of
from actors.http.errors import Refused, refused
from actors.http.keys import Doorkeeper
from actors.http.metrics import Metrics
from actors.http.openai import ChatRequest, CompletionRequest, Writer, iso, named_model
from actors.http.streams import Stream, Streams, end
from actors.messages import Answer, Begun, DocumentsQuery, Knowledge, Phase, Piece, Question, ReplicaStatus, Role, Told
from actors.succession import speaker

R = TypeVar("R", bound=BaseModel)
PAGE = Path(__file__).parent / "page"
GONE_S = 0.1
"""How often a client that waits for a whole answer is looked after."""

OFFSET_MAX = (1 << 63) - 1
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Front:
    """What the routes share."""

    def __init__(self, streams: Streams, config: HttpConfig) -> None:
        self.streams, self.config = streams, config
        self.doorkeeper, self.metrics = Doorkeeper(config), Metrics(streams)

    def admit(self, request: Request, use: Use) -> None:
        request.state.key = self.doorkeeper.admit(request.headers.get("authorization"), use)

    def stream(self, name: str | None) -> Stream:
        """The stream of that name, or the only one."""
        names = self.streams.names()
        if name is None and len(names) != 1:
            raise Refused(400, f"name a stream: {', '.join(names) or 'none runs'}", param="stream", code="no_stream")
        found = self.streams.get(names[0] if name is None else name)
        if found is None:
            there = ", ".join(names) or "none yet"
            raise Refused(404, f"there is no stream {str(name)[:80]!r}; there are: {there}", param="model", code="model_not_found")
        return found

    async def body(self, request: Request, kind: type[R]) -> R:
        """A request's JSON, checked. It is read piece by piece, so that nothing larger than allowed is ever held."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send Content-Type: application/json", code="wrong_content_type")
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > self.config.max_body_bytes:
                raise Refused(413, f"the request is larger than {self.config.max_body_bytes} bytes (http.max_body_bytes)", code="too_large")
        try:
            return kind.model_validate(parsed(bytes(data)))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"])) or None
            raise Refused(400, f"{place or 'the body'}: {fault['msg']}", param=place, code="invalid_value") from None

    # ------------------------------------------------------------------ answering

    async def respond(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        """A question of either kind, from its key to its answer."""
        self.admit(request, "ask")
        asked = await self.body(request, kind)
        asked.check(self.config)
        stream, moment = named_model(asked.model)
        return await self.answer(request, asked.question(moment), asked, stream)

    async def answer(self, request: Request, question: Question, asked: ChatRequest | CompletionRequest, name: str) -> Response:
        writer = Writer("chat" if isinstance(asked, ChatRequest) else "text", asked.model)
        told = self._measured(self.stream(name), question)
        if not asked.stream:
            answer = await self._whole(request, told)
            return JSONResponse(writer.whole(answer), headers=headers_of(answer.knowledge))
        begun = await anext(told)  # what cannot be answered is refused before a stream begins
        assert isinstance(begun, Begun)
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = self._events(told, writer, question.answers, usage)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers_of(begun.knowledge)}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _measured(self, stream: Stream, question: Question) -> AsyncGenerator[Told, None]:
        started_s, first = time.monotonic(), True
        self.metrics.open.inc()
        try:
            async with aclosing(stream.ask(question)) as told:
                async for each in told:
                    if isinstance(each, Piece) and first:
                        self.metrics.first_token.labels(stream.name).observe(time.monotonic() - started_s)
                        first = False
                    if isinstance(each, Answer):
                        seconds = time.monotonic() - started_s
                        self.metrics.answered(stream.name, each.knowledge, each.prompt_tokens, each.completion_tokens, seconds)
                    yield each
        finally:
            self.metrics.open.dec()

    async def _whole(self, request: Request, told: AsyncGenerator[Told, None]) -> Answer:
        """The whole answer; a client that goes away meanwhile ends it."""

        async def last() -> Answer:
            async with aclosing(told):
                async for each in told:
                    if isinstance(each, Answer):
                        return each
            raise Refused(500, "the answer has no end", code="failed")

        answering = asyncio.ensure_future(last())
        try:
            while not (await asyncio.wait({answering}, timeout=GONE_S))[0]:
                if await request.is_disconnected():
                    raise Refused(499, "the client went away", code="client_closed")
            return answering.result()
        finally:
            if not answering.done():
                await end(answering)

    async def _events(self, told: AsyncGenerator[Told, None], writer: Writer, answers: int, usage: bool) -> AsyncIterator[str]:
        opening = writer.opening(answers)
        if opening is not None:
            yield sent(opening)
        try:
            async with aclosing(told):
                async for each in told:
                    if isinstance(each, Piece):
                        yield sent(writer.piece(each.index, each.text, each.tokens))
                    elif isinstance(each, Answer):
                        for event in writer.closing(each, usage):
                            yield sent(event)
        except Exception as error:  # the stream has begun, so the error is an event of it
            yield sent(refused(error).body())
            return
        yield "data: [DONE]\n\n"


def sent(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"


def parsed(data: bytes) -> Any:
    """JSON from outside: one that is too deep or holds what is no number in JSON is refused as well."""

    def refuse(name: str) -> Any:
        raise Refused(400, f"{name} is no JSON", code="invalid_json")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {str(error)[:200]}", code="invalid_json") from None


def headers_of(knowledge: Knowledge) -> dict[str, str]:
    """The main facts as headers."""
    facts = {
        "Stream": knowledge.stream,
        "Replica": knowledge.replica,
        "Version": knowledge.version,
        "Staleness-S": None if knowledge.staleness_s is None else f"{knowledge.staleness_s:.3f}",
        "Grounded": None if knowledge.grounded is None else str(knowledge.grounded).lower(),
    }
    return {f"X-Memstream-{name}": str(value) for name, value in facts.items() if value is not None}


def make_app(streams: Streams, config: HttpConfig) -> FastAPI:
    """The application over some streams."""
    front = Front(streams, config)
    app = FastAPI(
        title="memstream", version=version("memstream"), summary="A language model that knows the news.", docs_url=None, redoc_url=None
    )
    app.state.front = front
    _handle_errors(app, front)
    _openai(app, front)
    _knowledge(app, front)
    _documents(app, front)
    _watching(app, front)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def _handle_errors(app: FastAPI, front: Front) -> None:
    @app.middleware("http")
    async def counted(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            await front.streams.look()
            response = await call(request)
        except Exception as error:
            response = refused(error).response()
        for name, value in SECURITY.items():
            response.headers.setdefault(name, value)
        route = request.scope.get("route")
        front.metrics.requests.labels(getattr(route, "path", "other"), str(response.status_code)).inc()
        return response

    async def error(request: Request, error: Exception) -> Response:
        return refused(error).response()

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"][1:])) or None
        return Refused(400, f"{place}: {fault['msg']}", param=place, code="invalid_value").response()

    async def http(request: Request, error: HTTPException) -> Response:
        return Refused(error.status_code, str(error.detail), code="no_such_route" if error.status_code == 404 else None).response()

    app.add_exception_handler(Refused, error)
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]


def _json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """The body in the API's description: it is read by `Front.body`, which bounds it."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(value, definitions) for value in schema] if isinstance(schema, list) else schema


def _openai(app: FastAPI, front: Front) -> None:
    @app.post("/v1/chat/completions", openapi_extra=_json_body(ChatRequest), response_model=None)
    async def chat(request: Request) -> Response:
        """Continue a conversation, from what is remembered."""
        return await front.respond(request, ChatRequest)

    @app.post("/v1/completions", openapi_extra=_json_body(CompletionRequest), response_model=None)
    async def complete(request: Request) -> Response:
        """Continue a text, from what is remembered."""
        return await front.respond(request, CompletionRequest)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The streams."""
        front.admit(request, "ask")
        return {"object": "list", "data": [_model(name) for name in front.streams.names()]}

    @app.get("/v1/models/{model}")
    async def model(request: Request, model: str) -> dict[str, Any]:
        """One stream."""
        front.admit(request, "ask")
        return _model(front.stream(named_model(model)[0]).name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "memstream"}


StreamQuery = Annotated[str | None, Query(description="Name of the stream; not needed where there is only one.")]


def _knowledge(app: FastAPI, front: Front) -> None:
    @app.get("/v1/knowledge")
    async def knowledge(request: Request, stream: StreamQuery = None) -> dict[str, Any]:
        """How the replicas stand: positions, freshness, what is remembered."""
        front.admit(request, "ask")
        found = front.stream(stream)
        statuses = found.statuses()
        leader = speaker(statuses) if statuses else None
        return {
            "stream": found.name,
            "leader": leader.replica if leader is not None and leader.role is Role.LEADER else None,
            "replicas": [_status(status) for status in statuses],
        }

    @app.get("/v1/knowledge/documents")
    async def documents(
        request: Request,
        stream: StreamQuery = None,
        q: Annotated[str, Query(max_length=500, description="Text in title, source or id.")] = "",
        source: Annotated[str | None, Query(max_length=500, description="Only this source.")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    ) -> dict[str, Any]:
        """What is remembered, the newest learned first."""
        front.admit(request, "ask")
        return page_of(await front.stream(stream).documents(DocumentsQuery(text=q, source=source, limit=limit, offset=offset)))


def _status(status: ReplicaStatus) -> dict[str, Any]:
    fields = status.as_dict()
    watermark_ms, complete_ms = fields.pop("watermark_ms"), fields.pop("complete_up_to_ms")
    staleness_s = None if complete_ms is None else max(0.0, time.time() - complete_ms / 1000)
    lag = sum(max(0, last - status.position.get(name, 0)) for name, last in status.highwater.items()) if status.highwater else None
    return {**fields, "watermark": iso(watermark_ms), "complete_up_to": iso(complete_ms), "staleness_s": staleness_s, "lag": lag}


def _documents(app: FastAPI, front: Front) -> None:
    @app.post("/v1/documents", status_code=202, openapi_extra=_json_body(DocumentRequest))
    async def publish(request: Request, stream: StreamQuery = None) -> dict[str, Any]:
        """Publish a document into the stream's topic; `at_least` is what a question demands to be answered with it."""
        front.admit(request, "publish")
        document = await front.body(request, DocumentRequest)
        fields = document.model_dump(exclude={"topic"}, exclude_none=True)
        return landed(await front.stream(stream).publish(fields, document.topic))

    @app.get("/v1/documents/{topic}/{partition}/{offset}")
    async def fate(request: Request, topic: str, partition: int, offset: int, stream: StreamQuery = None) -> dict[str, Any]:
        """What became of an offset: waiting, applied, duplicate, filtered, deleted, dead_letter, gap, or passed."""
        front.admit(request, "ask")
        _bounded(partition, offset)
        return fate_of(await front.stream(stream).fate(topic, partition, offset))

    @app.delete("/v1/documents/{topic}/{partition}/{offset}", status_code=202)
    async def forget(request: Request, topic: str, partition: int, offset: int, stream: StreamQuery = None) -> dict[str, Any]:
        """Have the document that lies there forgotten: publishes the tombstone of its id."""
        front.admit(request, "publish")
        _bounded(partition, offset)
        found = front.stream(stream)
        document = (await found.fate(topic, partition, offset)).document
        if document is None:
            raise Refused(404, f"nothing is remembered of {topic[:200]}/{partition}@{offset}", code="no_such_document")
        return landed(await found.delete(document.document_id, topic))

    @app.delete("/v1/documents", status_code=202)
    async def forget_id(
        request: Request, id: Annotated[str, Query(min_length=1, max_length=4096)], stream: StreamQuery = None
    ) -> dict[str, Any]:
        """Have the document of an id forgotten: publishes its tombstone."""
        front.admit(request, "publish")
        return landed(await front.stream(stream).delete(id, None))


def _bounded(partition: int, offset: int) -> None:
    if not (0 <= partition < 1 << 31 and 0 <= offset <= OFFSET_MAX):
        raise Refused(400, "there is no such partition or offset", code="invalid_value")


def _watching(app: FastAPI, front: Front) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The front lives."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(stream: str | None = None) -> Response:
        """Whether every stream answers, or the named one, and if not, why."""
        names = front.streams.names() if stream is None else [front.stream(stream).name]
        reasons = [reason for name in names for reason in _not_ready(front, name)]
        if not front.streams.names():
            reasons = ["no stream runs"]
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(front.metrics.text(), media_type="text/plain; version=0.0.4")


def _not_ready(front: Front, name: str) -> list[str]:
    stream = front.streams.get(name)
    statuses = [] if stream is None else stream.statuses()
    reasons = []
    if not any(status.answers for status in statuses):
        reasons += [f"{name}: replica {each.replica} is {each.phase}: {each.problem}" for each in statuses] or [f"{name}: has no replica"]
    elif all(status.phase in (Phase.WAITING, Phase.FAILED) for status in statuses if status.answers):
        reasons += [f"{name}: replica {each.replica} does not learn: {each.problem}" for each in statuses if each.answers]
    most_s = front.config.ready_snapshot_age_s
    ages = [status.epoch_age_s for status in statuses if status.epoch_age_s is not None]
    if most_s is not None and (not ages or min(ages) > most_s):
        reasons.append(f"{name}: the last snapshot is {f'{min(ages):.0f} s old' if ages else 'not written yet'}")
    return reasons
