"""What a run may cost at most, checked before each call against what is spent and what calls in flight may use."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rleif.teachers.chat import BudgetError, Question
from rleif.teachers.store import Spent

CHARACTERS_PER_TOKEN = 3.0  # a cautious guess before the provider has counted: English has four and more
TOKENS_PER_MESSAGE = 8  # roles and separators


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Money per million tokens, in whatever currency; the provider's list, given by the user.

    >>> Prices(prompt=0.5, completion=1.5)
    """

    prompt: float
    completion: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits over the life of a store; None is no limit.

    >>> Budget(calls=1000, cost=20.0)
    """

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "cost"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"budget of {name} must be at least 0, got {value}; leave it out for no limit")


def prompt_tokens_at_most(question: Question) -> int:
    """More tokens than the prompt will likely have."""
    characters = sum(len(message["content"]) for message in question.messages)
    return int(characters / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(question.messages)


class Ledger:
    """Spent and reserved. A call that might not fit waits while others are in flight, whose real use may leave room.

    Tries that fail (a time-out, a cut reply) may be charged by a provider without being reported; they are not counted.
    """

    def __init__(self, budget: Budget, spent: Spent, prices: Prices | None = None) -> None:
        if budget.cost is not None and prices is None:
            raise ValueError("a budget of money needs prices per million tokens; none are built in, they go stale")
        self.budget = budget
        self.prices = prices
        self.calls = spent.calls
        self.prompt_tokens = spent.prompt_tokens
        self.completion_tokens = spent.completion_tokens
        self._reserved: dict[int, tuple[int, int]] = {}  # prompt and completion tokens at most, of each call in flight
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()

    @property
    def cost(self) -> float | None:
        return self.prices and self.prices.cost(self.prompt_tokens, self.completion_tokens)

    @asynccontextmanager
    async def reserve(self, question: Question) -> AsyncIterator[None]:
        """Hold room for the call. Raises BudgetError when it cannot fit even with nothing else in flight."""
        number, need = next(self._numbers), (prompt_tokens_at_most(question), question.max_tokens)
        async with self._changed:
            while (over := self._over(need)) is not None:
                if not self._reserved:
                    raise BudgetError(over)
                await self._changed.wait()
            self._reserved[number] = need
        try:
            yield
        finally:
            async with self._changed:
                del self._reserved[number]
                self._changed.notify_all()

    def leave_loop(self) -> None:
        """Nothing waits here any more: the next call may be made in another event loop."""
        self._changed = asyncio.Condition()

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """A reply has come."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def _over(self, need: tuple[int, int]) -> str | None:
        """Which limit the call could break, and by how much; None when it fits."""
        budget = self.budget
        waiting = [*self._reserved.values(), need]
        prompt = self.prompt_tokens + sum(tokens for tokens, _ in waiting)
        completion = self.completion_tokens + sum(tokens for _, tokens in waiting)
        if budget.calls is not None and self.calls + len(waiting) > budget.calls:
            return f"the budget of {budget.calls} calls is used up ({self.calls} made)"
        spent = self.prompt_tokens + self.completion_tokens
        if budget.tokens is not None and prompt + completion > budget.tokens:
            return (
                f"the budget of {budget.tokens} tokens has no room for the next call: {spent} are spent, and it may "
                f"take {sum(need)}"
            )
        if budget.cost is not None and self.prices is not None:
            at_most = self.prices.cost(prompt, completion)
            if at_most > budget.cost:
                return (
                    f"the budget of {budget.cost} has no room for the next call: {self.cost:.4f} is spent, and it may "
                    f"cost {self.prices.cost(*need):.4f}"
                )
        return None
