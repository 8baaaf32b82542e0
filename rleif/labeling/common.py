"""What the labelling stages share: the split by root, calls of a teacher, and the pool's file."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from rleif.records import Problem, read_problems, stable_hash
from rleif.teachers.base import Teacher, closing_calls
from rleif.teachers.chat import StopAskingError, first_of

STEP_NAMES_HELP = (
    "whether steps of the symbolic teacher say whose amount they compute; without, a model of less than a million "
    "parameters learns to solve problems long before it learns who is who"
)
Item = TypeVar("Item")
Result = TypeVar("Result")


def pool_of(output_dir: str | Path) -> list[Problem]:
    """The evolved pool of a run directory."""
    return read_problems(Path(output_dir) / "evolve" / "pool.jsonl")


def is_held_out(root: str, fraction: float, seed: int) -> bool:
    """Whether a lineage belongs to the held-out part; all its problems do or none, whatever else is in the pool."""
    return stable_hash(seed, "held-out labels", root) % 1_000_000 < fraction * 1_000_000


def sample_by_hash(items: Iterable[Item], limit: int | None, seed: int, name: Callable[[Item], str]) -> list[Item]:
    """At most `limit` items, drawn by hash of their names and left in their order; all of them for None."""
    items = list(items)
    if limit is None or limit >= len(items):
        return items
    order = sorted(range(len(items)), key=lambda place: stable_hash(seed, "limit", name(items[place])))
    return [items[place] for place in sorted(order[:limit])]


def ask(
    teacher: Teacher,
    call: Callable[[Item], Awaitable[Result]],
    items: Sequence[Item],
    *,
    concurrency: int,
    progress: bool,
    what: str,
) -> list[Result | Exception]:
    """One teacher call per item, at most `concurrency` in flight; results in the order of the items.

    A call that raises gives its exception in place of a result: one failing item must not take the others with it.
    StopAskingError concerns all: it is raised, after the calls in flight.
    """
    results: list[Result | Exception | None] = [None] * len(items)
    work = iter(enumerate(items))

    async def worker(bar: tqdm) -> None:
        for index, item in work:
            try:
                results[index] = await call(item)
            except StopAskingError:
                raise
            except Exception as error:
                results[index] = error
            bar.update()

    async def everything() -> None:
        with tqdm(total=len(items), desc=what, disable=not progress) as bar:
            async with closing_calls(teacher):
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(min(concurrency, len(items))):
                            tasks.create_task(worker(bar))
                except* StopAskingError as stopped:
                    raise first_of(stopped) from None

    asyncio.run(everything())
    return results  # type: ignore[return-value]  # every place has been filled


def check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
