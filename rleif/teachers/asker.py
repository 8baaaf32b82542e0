"""Ask each question once: from the store, or else within the budget and with retries, and stored at once.

store has it?      -> the stored reply
in flight already? -> the same reply
else               -> reserve budget, ask, retry what may pass, store, return
"""

import asyncio
import random
from dataclasses import dataclass

from rleif.teachers.budget import Budget, Ledger, Prices
from rleif.teachers.chat import ChatClient, Question, Reply, UnavailableError
from rleif.teachers.limits import CoolDown
from rleif.teachers.store import Store, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and after which pauses a failed try is repeated.

    >>> Retries(tries=3, first_s=0.5)
    """

    tries: int = 8
    first_s: float = 1.0  # pause after the first failure; doubled after each further one
    most_s: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, got {self.tries}")

    def pause(self, failures: int, jitter: float) -> float:
        """Seconds after so many failures; jitter in [0, 1] spreads callers over the upper half of it."""
        return min(self.most_s, self.first_s * 2 ** (failures - 1)) * (0.5 + 0.5 * jitter)


class TransientError(Exception):
    """A try failed in a way that may pass.

    kind: for the statistics, such as "rate_limit". retry_after_s: what the provider asked for. for_all: whether other
    callers should wait, too.
    """

    def __init__(self, kind: str, message: str, *, retry_after_s: float | None = None, for_all: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.for_all = for_all


class Asker:
    """A `ChatClient` in front of another one, with memory, budget and patience.

    client: raises TransientError for what may pass and StopAskingError for what never will.
    concurrency: tries in flight at most.
    Raises UnavailableError after the last try, BudgetError before a call that might exceed the budget.

    A caller that is cancelled leaves its call running: it may be paid for already. `aclose` waits for such calls, and
    so does the end of `async with Asker(...) as asker`.
    """

    def __init__(
        self,
        client: ChatClient,
        store: Store,
        *,
        budget: Budget | None = None,
        prices: Prices | None = None,
        retries: Retries | None = None,
        concurrency: int = 64,
    ) -> None:
        self.client = client
        self.name, self.model = client.name, client.model
        self.store = store
        self.ledger = Ledger(budget or Budget(), store.spent(), prices)
        self.retries = retries or Retries()
        self.made = 0  # calls of this process that brought a reply
        self.reused = 0  # replies that came from the store
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._cool_down = CoolDown()
        self._in_flight: dict[str, asyncio.Task[Reply]] = {}

    async def ask(self, question: Question) -> Reply:
        key = key_of(self.client, question)
        if (stored := self.store.reply(key)) is not None:
            self.reused += 1
            return stored
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, question))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asyncio.shield(task)

    async def __aenter__(self) -> "Asker":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for the calls in flight, whose replies are stored, and close the client. Asking again opens it anew."""
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        await self.client.aclose()
        # What waits belongs to one event loop; the next question may come in another.
        self._slots = asyncio.Semaphore(self.concurrency)
        self.ledger.leave_loop()

    async def _make(self, key: str, question: Question) -> Reply:
        async with self._slots, self.ledger.reserve(question):
            reply = await self._patiently(question)
            self.store.add_reply(key, self.client, question, reply)
            self.ledger.add(reply.prompt_tokens, reply.completion_tokens)
            self.made += 1
            return reply

    async def _patiently(self, question: Question) -> Reply:
        failures = 0
        while True:
            await self._cool_down.wait()
            try:
                return await self.client.ask(question)
            except TransientError as error:
                failures += 1
                self.store.add_fault(error.kind)
                if failures >= self.retries.tries:
                    raise UnavailableError(f"no reply after {failures} tries; the last: {error}") from error
                await self._pause(error, failures)

    async def _pause(self, error: TransientError, failures: int) -> None:
        # Jitter is no part of any result, so it needs no seed.
        pause = self.retries.pause(failures, random.random())
        if error.retry_after_s is not None:
            pause = max(pause if failures > 1 else 0.0, error.retry_after_s)
        if error.for_all:
            self._cool_down.extend(pause)
        else:
            await asyncio.sleep(pause)
