"""OpenAI's requests and answers, and what of them this model can do. What it cannot is refused by name, never ignored."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints

from actors.http.config import HttpConfig
from actors.http.errors import Refused
from actors.messages import Answer, Choice, Demand, Filter, Knowledge, Question, Token
from pipeline.positions import parse_positions

Text = Annotated[str, StringConstraints(max_length=1 << 20)]
MAX_STOPS = 8
MAX_ALTERNATIVES = 20

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls", "prediction"}
)
"""Parameters that change no answer here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", None),
    "functions": ([], None),
    "function_call": ("none", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "audio": (None,),
    "web_search_options": (None,),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
}
"""Parameters that this model does not know, with the values that ask nothing of it."""


class KnowledgeRequest(BaseModel):
    """What must be known, and what an answer may be read from."""

    model_config = ConfigDict(extra="forbid")

    at_least: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description='Offsets that must have been learned, as {"news/0": 41}.'
    )
    max_staleness_s: float | None = Field(default=None, ge=0, description="So long ago at most the stream was known to be caught up.")
    wait_s: float = Field(default=0.0, ge=0, le=600, description="How long the question waits for that; then it is refused (503).")
    as_of: StrictInt | datetime | None = Field(default=None, description="The number of a snapshot, or a time: what was known then.")
    sources: list[Text] = Field(default_factory=list, max_length=1000, description="Only documents of these sources.")
    since: datetime | None = Field(default=None, description="Only documents published then or later.")
    until: datetime | None = Field(default=None, description="Only documents published before then.")
    exclude: list[Text] = Field(default_factory=list, max_length=1000, description="Not these documents (their ids).")
    max_blocks: int | None = Field(default=None, ge=0, le=64, description="Blocks that are read at most; 0: the base model alone answers.")

    def demand(self, of_model: int | datetime | None) -> Demand:
        as_of = self.as_of if self.as_of is not None else of_model
        try:
            parse_positions(self.at_least)
        except ValueError as error:
            raise Refused(400, str(error), param="knowledge.at_least", code="invalid_value") from None
        return Demand(
            at_least=self.at_least,
            max_staleness_s=self.max_staleness_s,
            wait_s=self.wait_s,
            as_of_epoch=as_of if isinstance(as_of, int) else None,
            as_of_ms=_ms(as_of) if isinstance(as_of, datetime) else None,
        )

    def filter(self) -> Filter:
        return Filter(
            sources=tuple(self.sources),
            since_ms=None if self.since is None else _ms(self.since),
            until_ms=None if self.until is None else _ms(self.until),
            exclude=tuple(self.exclude),
        )


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: StrictBool = False


class _Asked(BaseModel):
    """What both kinds of question have."""

    model_config = ConfigDict(extra="allow")

    model: Text
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Text | list[Text] | None = None
    knowledge: KnowledgeRequest | None = None

    def check(self, config: HttpConfig) -> None:
        """Refuse what this model cannot do, by its name."""
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or (name in NEUTRAL and any(value == each and type(value) is type(each) for each in NEUTRAL[name])):
                continue
            if name in NEUTRAL:
                raise Refused(400, f"{name} is not supported by this model", param=name, code="unsupported_parameter")
            raise Refused(400, f"unknown parameter: {name}", param=name, code="unknown_parameter")
        if (self.n or 1) > config.max_answers:
            raise Refused(400, f"n is {self.n}; at most {config.max_answers} (http.max_answers)", param="n", code="invalid_value")
        if len(self.stops) > MAX_STOPS or "" in self.stops:
            raise Refused(400, f"stop takes up to {MAX_STOPS} strings, none of them empty", param="stop", code="invalid_value")

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def base_question(self, of_model: int | datetime | None) -> dict[str, Any]:
        knowledge = self.knowledge or KnowledgeRequest()
        return {
            "answers": self.n or 1,
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature or 0.0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": self.top_k or 0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "seed": None if self.seed is None else self.seed % (1 << 63),
            "stop": self.stops,
            "max_blocks": knowledge.max_blocks,
            "only": knowledge.filter(),
            "demand": knowledge.demand(of_model),
        }


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore")

    type: Text
    text: Text | None = None


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None

    def plain(self) -> dict[str, str]:
        content = self.content or ""
        if not isinstance(content, str):
            other = next((part.type for part in content if part.type != "text"), None)
            if other is not None:
                raise Refused(400, f"messages may hold text alone, not {other[:40]!r}", param="messages", code="unsupported_content")
            content = "".join(part.text or "" for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    def question(self, of_model: int | datetime | None) -> Question:
        if self.top_logprobs and not self.logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        messages = tuple(message.plain() for message in self.messages)
        if not any(message["role"] == "user" and message["content"].strip() for message in messages):
            raise Refused(400, "there is no question: no user message with text", param="messages", code="invalid_value")
        fields = self.base_question(of_model)
        fields["max_new_tokens"] = self.max_completion_tokens or self.max_tokens
        return Question(messages=messages, top_logprobs=(self.top_logprobs or 0) if self.logprobs else None, **fields)


class CompletionRequest(_Asked):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    def question(self, of_model: int | datetime | None) -> Question:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        if not prompt:
            raise Refused(400, "the prompt is empty", param="prompt", code="invalid_value")
        return Question(text=prompt, top_logprobs=self.logprobs, **self.base_question(of_model))


def named_model(model: str) -> tuple[str, int | datetime | None]:
    """The stream that a model's name means, and the snapshot or time behind an "@" in it.

    >>> named_model("news"), named_model("news@7")
    (('news', None), ('news', 7))
    """
    stream, at, moment = model.partition("@")
    if not at:
        return stream, None
    if moment.isdecimal() and len(moment) < 12:
        return stream, int(moment)
    try:
        return stream, datetime.fromisoformat(moment)
    except ValueError:
        raise Refused(
            400, f"{moment[:60]!r} is neither the number of a snapshot nor a time such as 2026-01-31T12:00:00Z", param="model"
        ) from None


def _ms(time_: datetime) -> int:
    return int((time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).timestamp() * 1000)


# ---------------------------------------------------------------------- answers


class Writer:
    """Writes one answer as OpenAI's clients want it."""

    def __init__(self, kind: Literal["chat", "text"], model: str) -> None:
        self.kind, self.model, self.created = kind, model, int(time.time())
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, answer: Answer) -> dict[str, Any]:
        choices = [self._choice(index, choice, answer.knowledge) for index, choice in enumerate(answer.choices)]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return self._frame(name, choices) | {"usage": usage(answer), "knowledge": knowledge_of(answer.knowledge)}

    def _choice(self, index: int, choice: Choice, knowledge: Knowledge) -> dict[str, Any]:
        logprobs = self._logprobs(choice.tokens) if choice.tokens else None
        said = {"index": index, "finish_reason": choice.finish_reason, "logprobs": logprobs}
        if self.kind == "text":
            return said | {"text": choice.text}
        message = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": citations(choice.text, knowledge)}
        return said | {"message": message}

    def opening(self, count: int) -> dict[str, Any] | None:
        """The first event of a stream."""
        if self.kind == "text":
            return None
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "finish_reason": None, "logprobs": None} for index in range(count)])

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        said = {"index": index, "finish_reason": None, "logprobs": self._logprobs(tokens) if tokens else None}
        return self._chunk([said | ({"text": text} if self.kind == "text" else {"delta": {"content": text}})])

    def closing(self, answer: Answer, with_usage: bool) -> list[dict[str, Any]]:
        """The last events: why each answer ended, and what all were given from."""
        known = knowledge_of(answer.knowledge)
        choices = []
        for index, choice in enumerate(answer.choices):
            said: dict[str, Any] = {"index": index, "finish_reason": choice.finish_reason, "logprobs": None}
            cited = citations(choice.text, answer.knowledge)
            delta = {"annotations": cited} if cited else {}
            choices.append(said | ({"text": ""} if self.kind == "text" else {"delta": delta}))
        events = [self._chunk(choices) | {"knowledge": known}]
        if with_usage:
            events.append(self._chunk([]) | {"usage": usage(answer), "knowledge": known})
        return events

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._frame("chat.completion.chunk" if self.kind == "chat" else "text_completion", choices)

    def _frame(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        if self.kind == "text":
            return {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [dict(token.top) for token in tokens],
                "text_offset": [],
            }
        return {
            "content": [
                _token(token.text, token.logprob) | {"top_logprobs": [_token(text, value) for text, value in token.top]} for token in tokens
            ],
            "refusal": None,
        }


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def citations(text: str, knowledge: Knowledge) -> list[dict[str, Any]]:
    """Sources with an address, as existing chat front ends show them: they are those of the whole answer."""
    return [
        {
            "type": "url_citation",
            "url_citation": {"url": source.link, "title": source.title or source.document_id, "start_index": 0, "end_index": len(text)},
        }
        for source in knowledge.sources
        if source.link is not None and source.link.startswith(("http://", "https://"))
    ]


def knowledge_of(knowledge: Knowledge) -> dict[str, Any]:
    """The knowledge of an answer, times in ISO 8601."""
    fields = asdict(knowledge)
    watermark_ms, complete_ms = fields.pop("watermark_ms"), fields.pop("complete_up_to_ms")
    sources = [{"published_at": iso(source.pop("published_at_ms")), **source} for source in fields.pop("sources")]
    return {**fields, "watermark": iso(watermark_ms), "complete_up_to": iso(complete_ms), "sources": sources}


def iso(time_ms: int | None) -> str | None:
    """A time as text.

    >>> iso(1_767_081_600_000), iso(None)
    ('2025-12-30T08:00:00+00:00', None)
    """
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
