"""How fast a provider may be asked: requests and tokens per minute, and a pause that all callers share."""

import asyncio
import time
from collections.abc import Callable

Clock = Callable[[], float]


class Pace:
    """At most so many units per minute, evenly spread after a first burst of `burst_s` seconds' worth.

    >>> pace = Pace(per_minute=600)
    >>> await pace.wait(1)  # returns at once until a second's worth is used up
    """

    def __init__(self, per_minute: float | None, burst_s: float = 1.0, clock: Clock = time.monotonic) -> None:
        if per_minute is not None and per_minute <= 0:
            raise ValueError(f"a limit per minute must be above 0, got {per_minute}; leave it out for no limit")
        self._unit_s = 0.0 if per_minute is None else 60.0 / per_minute
        self._burst_s = burst_s
        self._clock = clock
        self._next = 0.0  # when the units handed out so far are used up

    def delay(self, units: float) -> float:
        """Reserve the units; the seconds to wait before using them."""
        now = self._clock()
        start = max(self._next, now - self._burst_s)
        self._next = start + units * self._unit_s
        return max(0.0, start - now)

    async def wait(self, units: float) -> None:
        if self._unit_s and (delay := self.delay(units)) > 0:
            await asyncio.sleep(delay)


class CoolDown:
    """A pause of all callers after the provider said that it is too much."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0

    def extend(self, seconds: float) -> None:
        """Nobody asks for so long; a longer pause that is already on stays."""
        self._until = max(self._until, self._clock() + seconds)

    async def wait(self) -> None:
        while (left := self._until - self._clock()) > 0:  # may have been extended while we slept
            await asyncio.sleep(left)
