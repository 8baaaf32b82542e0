"""EvolInstruct, the one general loop: seeds and a schedule in, a pool with full lineage out.

    for every seed, chain and sample:            current = seed
        for every turn:                          child = teacher.evolve(current, one operator of the turn)
            child passes elimination, is new in its family and clean?   -> it joins the pool and becomes `current`
            else                                 -> recorded as a rejection; `current` is tried again in the next turn
    afterwards: duplicates across families, the first seed's family wins

Within the loop a family (all that comes from one seed) sees nothing of other families, and every draw has its own
stream, so the result is the same at any concurrency, and a seed added at the end changes nothing for the others.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tqdm import tqdm

from rleif.evolution.dedup import Exact, Key, Seen
from rleif.evolution.eliminate import Candidate, Rule
from rleif.evolution.pool import Pool
from rleif.evolution.schedules import Schedule, Turn
from rleif.records import Problem, Rejection, Solution, stable_hash, stable_id
from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking, Teacher, closing_calls
from rleif.teachers.chat import StopAskingError, first_of

Check = Callable[[Problem], Rejection | None]
Result = TypeVar("Result")


@dataclass(slots=True)
class _Lane:
    """One sample of one chain: it grows from its own latest success."""

    current: Problem
    turns: tuple[Turn, ...]
    attempt: int  # index of the lane among the family's, so that lanes which evolve the same problem differ


@dataclass(slots=True)
class _Family:
    """What became of one seed."""

    seen: Seen
    kept: list[Problem] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


class EvolInstruct:
    """Evolve problems by a schedule of operators.

    teacher: makes the children and judges them.
    schedule: which operators are drawn when (`rleif.evolution.schedules`).
    eliminate: elimination rules; None takes the schedule's.
    dedup: keys under which two problems are duplicates, tried in order; () switches it off.
    decontaminate: rejects seeds and children that overlap a test set, usually a `Decontaminator`.
    seed: with the ids, decides every draw.
    concurrency: teacher calls in flight at most.
    progress: show a bar over the seeds.

    *Source:* WizardLM (arXiv 2304.12244), section 2: a failed child leaves its parent in the pool unchanged, to be
    tried again next round. *Differs:* rejections are kept with rule and evidence. An exception of the teacher becomes a
    rejection with status "failed", never the end of the run, except StopAskingError (a wrong key, a used-up budget):
    it ends the run after the calls in flight, and what a teacher has stored by then is not paid for again.
    """

    def __init__(
        self,
        teacher: Teacher,
        schedule: Schedule,
        *,
        eliminate: Sequence[Rule] | None = None,
        dedup: Sequence[Key] = (Exact(),),
        decontaminate: Check | None = None,
        seed: int = 0,
        concurrency: int = 64,
        progress: bool = False,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be >= 1, got {concurrency}")
        self.teacher = teacher
        self.schedule = schedule
        self.eliminate = tuple(schedule.eliminate if eliminate is None else eliminate)
        self.dedup = tuple(dedup)
        self.decontaminate: Check = decontaminate or (lambda problem: None)
        self.seed = seed
        self.concurrency = concurrency
        self.progress = progress

    def run(self, seeds: Sequence[Problem]) -> Pool:
        """Evolve the seeds. Inside a running event loop (a notebook) use `await evol.arun(seeds)`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.arun(seeds))
        raise RuntimeError("an event loop is running: use `await evol.arun(seeds)` in place of `evol.run(seeds)`")

    async def arun(self, seeds: Sequence[Problem]) -> Pool:
        """As `run`, inside an event loop. Raises ValueError when there is no seed or two seeds share an id."""
        kept, rejected = screen(seeds, self.dedup, self.decontaminate)
        async with closing_calls(self.teacher):
            families = await self._evolve_families(kept)
        problems, duplicates = _first_holders(families, kept, self.dedup)
        rejected += [rejection for family in families for rejection in family.rejected] + duplicates
        tried = len(kept) * self.schedule.evolutions_per_seed
        return Pool(problems=tuple(problems), rejections=tuple(rejected), seeds=len(seeds), tried=tried)

    async def _evolve_families(self, seeds: Sequence[Problem]) -> list[_Family]:
        """Families in the order of the seeds; a fixed number of workers keeps memory bounded for many seeds."""
        families: list[_Family] = [_Family(Seen(self.dedup)) for _ in seeds]
        teacher = _Limited(self.teacher, self.concurrency)
        work = iter(enumerate(seeds))
        with tqdm(total=len(seeds), desc="evolve", unit="seed", disable=not self.progress) as bar:

            async def worker() -> None:
                for index, seed in work:
                    await self._evolve_family(seed, families[index], teacher)
                    bar.update()

            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(min(self.concurrency, len(seeds))):
                        tasks.create_task(worker())
            except* StopAskingError as stopped:
                raise first_of(stopped) from None
        return families

    async def _evolve_family(self, seed: Problem, family: _Family, teacher: Teacher) -> None:
        family.kept.append(seed)
        family.seen.add(seed)
        lanes = [_Lane(seed, turns, attempt) for attempt, turns in enumerate(self._lane_turns())]
        for index in range(max(map(len, self.schedule.chains))):
            growing = [lane for lane in lanes if index < len(lane.turns)]
            # Calls of one round overlap; results are taken in lane order, so nothing depends on which came first.
            async with asyncio.TaskGroup() as tasks:
                tries = [
                    tasks.create_task(self._try(seed.round + index + 1, lane, lane.turns[index], teacher))
                    for lane in growing
                ]
            for lane, done in zip(growing, tries, strict=True):
                self._take(family, lane, done.result())

    def _lane_turns(self) -> Iterator[tuple[Turn, ...]]:
        for chain in self.schedule.chains:
            for _ in range(self.schedule.evolutions_per_round):
                yield chain

    def _take(self, family: _Family, lane: _Lane, outcome: Problem | Rejection) -> None:
        if isinstance(outcome, Problem):
            outcome = family.seen.find(outcome) or self.decontaminate(outcome) or outcome
        if isinstance(outcome, Rejection):
            family.rejected.append(outcome)
            return
        family.kept.append(outcome)
        family.seen.add(outcome)
        lane.current = outcome

    async def _try(self, number: int, lane: _Lane, turn: Turn, teacher: Teacher) -> Problem | Rejection:
        """One evolution: the child, or why there is none."""
        parent, attempt = lane.current, lane.attempt
        operator = random.Random(stable_hash(self.seed, parent.id, number, "operator", attempt)).choice(turn)
        child = self._child(parent, operator, number, attempt, Draft(instruction=""))
        # The teacher boundary: whatever is raised here concerns one child and must not take the others with it.
        try:
            rng = random.Random(stable_hash(self.seed, parent.id, number, operator.name, attempt))
            draft = await teacher.evolve(parent, operator, rng)
            if isinstance(draft, NoEvolution):
                return Rejection(problem=child, status="eliminated", rule="no_such_evolution", evidence=draft.reason)
            draft.instruction.encode()  # text that no file can hold (None, a lone surrogate) stops here
            child = self._child(parent, operator, number, attempt, draft)
            candidate = Candidate(child, parent, teacher)
            for rule in self.eliminate:
                if (evidence := await rule(candidate)) is not None:
                    name = getattr(rule, "__name__", type(rule).__name__)
                    return Rejection(problem=child, status="eliminated", rule=name, evidence=evidence)
        except StopAskingError:
            raise
        except Exception as error:
            evidence = f"{type(error).__name__}: {error}"
            return Rejection(problem=child, status="failed", rule="teacher_error", evidence=evidence)
        return child

    def _child(self, parent: Problem, operator: Operator, number: int, attempt: int, draft: Draft) -> Problem:
        version = f"{operator.name}@{operator.version}"
        return Problem(
            id=stable_id(parent.id, version, self.teacher.name, number, attempt, self.seed),
            instruction=draft.instruction,
            answer=draft.answer,
            parent=parent.id,
            root=parent.root,
            round=number,
            operator=operator.name,
            direction=operator.direction,
            teacher=self.teacher.name,
            meta=dict(draft.meta),
        )


def screen(
    seeds: Sequence[Problem], dedup: Sequence[Key], decontaminate: Check
) -> tuple[list[Problem], list[Rejection]]:
    """Seeds that are neither contaminated nor a duplicate of an earlier seed, and the rejections of the others."""
    if not seeds:
        raise ValueError("there are no seed problems to evolve; give at least one")
    if len({seed.id for seed in seeds}) < len(seeds):
        ids = [seed.id for seed in seeds]
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"seed ids must be unique; {repeated!r} occurs {ids.count(repeated)} times")
    seen, kept, rejected = Seen(dedup), [], []
    for seed in seeds:
        rejection = decontaminate(seed) or seen.find(seed)
        if rejection is None:
            kept.append(seed)
            seen.add(seed)
        else:
            rejected.append(rejection)
    return kept, rejected


def _first_holders(
    families: Sequence[_Family], seeds: Sequence[Problem], dedup: Sequence[Key]
) -> tuple[list[Problem], list[Rejection]]:
    """Remove duplicates across families: seeds come first, then the children in the order of their seeds."""
    seen, kept, rejected = Seen(dedup), [], []
    for seed in seeds:
        seen.add(seed)
    for family in families:
        for problem in family.kept:
            rejection = seen.find(problem)
            if rejection is None:
                kept.append(problem)
                seen.add(problem)
            else:
                rejected.append(rejection)
    return kept, rejected


class _Limited:
    """A teacher with at most `concurrency` calls in flight."""

    def __init__(self, teacher: Teacher, concurrency: int) -> None:
        self.name = teacher.name
        self._teacher = teacher
        self._slots = asyncio.Semaphore(concurrency)

    async def _wait(self, call: Callable[[], Awaitable[Result]]) -> Result:
        async with self._slots:
            return await call()

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution:
        return await self._wait(lambda: self._teacher.evolve(problem, operator, rng))

    async def answer(self, problem: Problem) -> Solution:
        return await self._wait(lambda: self._teacher.answer(problem))

    async def rank(self, problems: Sequence[Problem]) -> Ranking:
        return await self._wait(lambda: self._teacher.rank(problems))

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        return await self._wait(lambda: self._teacher.label(problem, steps))

    async def same(self, first: Problem, second: Problem) -> bool:
        return await self._wait(lambda: self._teacher.same(first, second))
