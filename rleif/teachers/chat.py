"""What a language model is asked and what it replied, and how asking can fail.

Errors say who is concerned: `ReplyError` one question, `UnavailableError` one question that can be asked again another
day, `StopAskingError` the whole run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call of a chat model: all that shapes the reply, except who is asked.

    >>> Question(messages=({"role": "user", "content": "2 + 3?"},), max_tokens=8)
    """

    messages: tuple[Message, ...]
    max_tokens: int = 1024
    temperature: float = 0.7
    options: Mapping[str, Any] = field(default_factory=dict)  # further request fields, such as top_p or response_format
    attempt: int = 0  # the same question again is another question: sample k of an answer, or a new try

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but messages and attempt, as it goes into the request."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back, raw: it is parsed again whenever it is used.

    >>> Reply(text="5", finish_reason="stop", prompt_tokens=12, completion_tokens=1, latency_s=0.3)
    """

    text: str
    finish_reason: str  # "stop", "length", "content_filter" ...
    prompt_tokens: int
    completion_tokens: int
    latency_s: float
    refusal: str | None = None  # the provider's own refusal field

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ChatClient(Protocol):
    """Whoever answers questions. `name` and `model` are part of the key under which replies are stored."""

    name: str
    model: str

    async def ask(self, question: Question) -> Reply: ...

    async def aclose(self) -> None: ...


class TeacherError(Exception):
    """Something went wrong between the question and a usable reply."""


class ReplyError(TeacherError):
    """The reply to this question cannot be used: refused, cut off, or not of the asked form."""


class UnavailableError(TeacherError):
    """No reply after all retries. Nothing was stored, so the next run asks again."""


class StopAskingError(TeacherError):
    """No further question makes sense: a key, an address or a model name is wrong."""


class BudgetError(StopAskingError):
    """The next call could exceed the budget. What was paid for is stored."""


def first_of(group: BaseExceptionGroup) -> BaseException:
    """The first exception in a group, however deep."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def usable_text(reply: Reply) -> str:
    """The text of a reply that ended by itself. Raises ReplyError for a refusal, a cut or an empty one."""
    if reply.refusal:
        raise ReplyError(f"refused: {reply.refusal[:200]}")
    if reply.finish_reason != "stop":
        raise ReplyError(f"finish_reason is {reply.finish_reason!r} after {reply.completion_tokens} tokens, not 'stop'")
    if not reply.text.strip():
        raise ReplyError("the reply is empty")
    return reply.text


def canonical(value: Any) -> str:
    """JSON that is the same for equal values, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
