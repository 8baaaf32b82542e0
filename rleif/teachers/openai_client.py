"""Any server that speaks the OpenAI chat protocol: OpenAI, vLLM, SGLang, Ollama, `transformers serve`."""

import asyncio
import os
import re
import time
from typing import TYPE_CHECKING, Any

from rleif.teachers.asker import TransientError
from rleif.teachers.budget import prompt_tokens_at_most
from rleif.teachers.chat import Question, Reply, ReplyError, StopAskingError
from rleif.teachers.limits import Pace

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
MOST_CHARACTERS = 1_000_000  # a longer reply is no answer to anything asked here
LIKE_A_KEY = re.compile(r"\b(?:sk|key|hf|gsk)[-_][\w*.-]{4,}")


class OpenAIClient:
    """One model behind one address, asked through `openai.AsyncOpenAI`.

    base_url: such as "http://localhost:8000/v1"; None is OpenAI itself.
    key_variable: the environment variable that holds the key, the only place it is read from. A server at a `base_url`
    of yours may need none.
    requests_per_minute, tokens_per_minute: the provider's limits, kept by waiting; None is no limit.
    timeout_s: for one try, as a whole.

    `ask` makes one try. Raises StopAskingError for a wrong key, address or model name, ReplyError for a question that
    the server refuses as it is, TransientError for everything that may pass. No error holds the key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = KEY_VARIABLE,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout_s: float = 120.0,
        name: str = "openai",
    ) -> None:
        key = os.environ.get(key_variable)
        if not key and base_url is None:
            raise StopAskingError(f"set {key_variable} to the key of the provider, or give base_url for a local server")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be above 0, got {timeout_s}")
        self.name = name
        self.model = model
        self.base_url = base_url
        self.timeout_s = timeout_s
        self._key = key
        self._key_variable = key_variable
        self._requests = Pace(requests_per_minute)
        self._tokens = Pace(tokens_per_minute)
        self._opened: AsyncOpenAI | None = None  # its connections belong to one event loop

    async def ask(self, question: Question) -> Reply:
        await self._requests.wait(1)
        await self._tokens.wait(prompt_tokens_at_most(question) + question.max_tokens)
        start = time.monotonic()
        failure: Exception | None = None
        raw: Any = None
        try:
            async with asyncio.timeout(self.timeout_s):
                raw = await self._client.chat.completions.create(
                    model=self.model,
                    messages=[dict(message) for message in question.messages],  # type: ignore[arg-type]
                    **question.parameters,
                )
        except Exception as error:  # sorted by kind; what is not the server's doing is raised again
            failure = self._sorted(error)
        if failure is not None:  # raised out here, or the server's own words, maybe with the key, would hang on to it
            raise failure
        return self._reply(raw, time.monotonic() - start)

    async def aclose(self) -> None:
        """Close the connections; the next question opens new ones."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    @property
    def _client(self) -> "AsyncOpenAI":
        if self._opened is None:
            from openai import AsyncOpenAI

            self._opened = AsyncOpenAI(
                api_key=self._key or "none", base_url=self.base_url, max_retries=0, timeout=self.timeout_s
            )
        return self._opened

    def _reply(self, raw: Any, latency_s: float) -> Reply:
        choice: Any = (getattr(raw, "choices", None) or [None])[0]  # the SDK returns a page of HTML as plain text
        message = getattr(choice, "message", None)
        if message is None:
            raise TransientError("no_completion", f"the server sent {str(raw)[:80]!r}, which is no chat completion")
        text = message.content or ""
        if len(text) > MOST_CHARACTERS:
            text, reason = text[:MOST_CHARACTERS], "length"
        else:
            reason = str(choice.finish_reason)
        usage = getattr(raw, "usage", None)
        return Reply(
            text=text,
            finish_reason=reason,
            prompt_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
            completion_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
            latency_s=latency_s,
            refusal=getattr(message, "refusal", None),
        )

    def _sorted(self, error: Exception) -> Exception:
        """What the error means for the question and for the run, without the key."""
        import openai

        where = self.base_url or "OpenAI"
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return TransientError("timeout", f"no reply within {self.timeout_s} s")
        if isinstance(error, openai.APIConnectionError):
            return TransientError("connection", f"no connection to {where}: {self._clean(error.__cause__ or error)}")
        if isinstance(error, openai.APIStatusError):
            return self._by_status(error, where)
        if isinstance(error, openai.APIError | ValueError):  # a cut or malformed body
            return TransientError("no_completion", f"the reply of {where} cannot be read: {self._clean(error)}")
        return error

    def _by_status(self, error: Any, where: str) -> Exception:
        status, said = error.status_code, self._clean(error)
        if status == 401:
            return StopAskingError(f"{where} does not accept the key in {self._key_variable} (401): {said}")
        if status == 403:
            return StopAskingError(f"{where} does not let this key use model {self.model!r} (403): {said}")
        if status == 404:
            return StopAskingError(f"{where} has no model {self.model!r}, or base_url is wrong (404): {said}")
        if status == 429:
            if "insufficient_quota" in said:
                return StopAskingError(f"the account at {where} is used up (429): {said}")
            return TransientError("rate_limit", said, retry_after_s=_retry_after_s(error.response), for_all=True)
        if status in (408, 409) or status >= 500:
            for_all = status == 503
            return TransientError(f"http_{status}", said, retry_after_s=_retry_after_s(error.response), for_all=for_all)
        return ReplyError(f"{where} refuses the question ({status}): {said}")

    def _clean(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        if self._key:
            text = text.replace(self._key, "[key]")
        return LIKE_A_KEY.sub("[key]", text)[:500]


def _retry_after_s(response: Any) -> float | None:
    """Seconds that the server asks to wait; a date, or nonsense, is None."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 3600 else None
