"""The symbolic teacher: the five verbs of the Teacher protocol, computed exactly."""

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rleif.records import Problem, Solution, stable_hash
from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking
from rleif.teachers.symbolic.defects import ILL_POSED, spoil
from rleif.teachers.symbolic.edits import EDITS, edit
from rleif.teachers.symbolic.judge import label_steps
from rleif.teachers.symbolic.program import Program, count_steps, evaluate, program_key
from rleif.teachers.symbolic.reader import Reading, analyse
from rleif.teachers.symbolic.render import bare, number, render, solution_steps
from rleif.teachers.symbolic.restore import program_of
from rleif.teachers.symbolic.sample import SIZES, TEACHER_NAME, Sizes, answer_of, meta_of

NO_ANSWER = "The problem does not have one answer."


class SymbolicTeacher:
    """Evolves, answers, ranks, labels and compares problems of the symbolic world, with or without their meta.

    noise: the rate at which `evolve` returns an ill-posed child with a wrong reference answer, as a careless teacher
    would: meta["noise"] is True and meta["defect"] names what is wrong. Such a child is answered with its wrong
    reference and does not evolve further. max_steps: a child of more operations is no evolution. step_names: whether
    the steps of `answer` say whose amount they compute. Results depend on the arguments, `rng` and the seed alone.

    >>> teacher = SymbolicTeacher(seed=0)
    >>> draft = await teacher.evolve(problem, Operator(name="add_constraints", direction="up"), rng)
    """

    name = TEACHER_NAME

    def __init__(
        self,
        seed: int = 0,
        noise: float = 0.0,
        sizes: Sizes = SIZES,
        max_steps: int | None = None,
        step_names: bool = True,
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps = {max_steps}: a problem takes at least one operation")
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"noise = {noise}: expected a rate between 0 and 1")
        self.seed = seed
        self.noise = noise
        self.sizes = sizes
        self.max_steps = max_steps
        self.step_names = step_names

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution:
        """Raises ValueError for an operator that is not one of the five of `edits.EDITS`, or a foreign problem."""
        if operator.name not in EDITS:
            raise ValueError(f"the symbolic teacher has no operator {operator.name!r}; known: {', '.join(EDITS)}")
        if _is_ill_posed(problem):
            return NoEvolution(reason=f"the problem is ill-posed: {problem.meta['defect']}")
        key = rng.getrandbits(63)
        own = random.Random(stable_hash(self.seed, problem.instruction, operator.name, operator.version, key))
        program = edit(program_of(problem), operator.name, own, self.sizes)
        if program is None:
            return NoEvolution(reason=EDITS[operator.name][1])
        if self.max_steps is not None and count_steps(program) > self.max_steps:
            return NoEvolution(reason=f"it would take more than {self.max_steps} steps")
        if own.random() < self.noise:
            return self._dirty(program, own)
        return Draft(instruction=render(program), answer=answer_of(program), meta=meta_of(program))

    def _dirty(self, program: Program, rng: random.Random) -> Draft:
        defect = rng.choice(ILL_POSED)
        _, text = spoil(program, rng, defect, self.sizes)
        right = evaluate(program)[program.target]
        wrong = rng.choice([right + d for d in (-10, -2, -1, 1, 2, 10) if right + d > 0])
        meta: dict[str, Any] = {**meta_of(program), "defect": defect, "noise": True}
        return Draft(instruction=text, answer=number(wrong), meta=meta)

    async def answer(self, problem: Problem) -> Solution:
        """The worked solution; an ill-posed problem has none, but noise ends in its wrong reference."""
        noise = bool(problem.meta.get("noise"))
        if _is_ill_posed(problem) and not noise:
            return self._solution(problem, (NO_ANSWER,), None)
        program = program_of(problem)
        values = evaluate(program)
        if noise and problem.answer is not None:
            values[program.target] = Fraction(problem.answer)
        steps = solution_steps(program, values)
        if not self.step_names:
            steps = tuple(map(bare, steps))
        return self._solution(problem, steps, number(values[program.target]))

    def _solution(self, problem: Problem, steps: tuple[str, ...], answer: str | None) -> Solution:
        return Solution(
            problem_id=problem.id, instruction=problem.instruction, steps=steps, answer=answer, by=self.name
        )

    async def rank(self, problems: Sequence[Problem]) -> Ranking:
        """Best first: well-posed before ill-posed, without redundancy before with, more steps before fewer.

        Judged from the text alone. Aspects, each in [0, 1], one value per problem: definition (what is asked is
        determined), precision (every sentence has one meaning and is to the point: 0.5 with a redundant one),
        integrity (the statements agree). Difficulty, in steps, decides among clean problems. Ill-posed problems tie.
        """
        readings = [analyse(p.instruction) for p in problems]
        keys = [_rank_key(r) for r in readings]
        tiers = tuple(tuple(i for i, k in enumerate(keys) if k == key) for key in sorted(set(keys), reverse=True))
        aspects = {
            "definition": [float(r.status not in ("underdetermined", "unreadable")) for r in readings],
            "precision": [_precision(r) for r in readings],
            "integrity": [float(r.status not in ("contradictory", "unreadable")) for r in readings],
            "difficulty": [float(r.steps) for r in readings],
        }
        return Ranking(tiers=tiers, aspects=aspects)

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        """See `judge.label_steps`. Steps of an ill-posed child are judged by the problem it was spoiled from."""
        return label_steps(program_of(problem), steps)

    async def same(self, first: Problem, second: Problem) -> bool:
        """Whether both ask for the same computation, whatever the names, theme and wording."""
        return _identity(first) == _identity(second)


def _is_ill_posed(problem: Problem) -> bool:
    return problem.meta.get("defect") in ILL_POSED


def _rank_key(reading: Reading) -> tuple[bool, bool, int]:
    if reading.status != "solved":
        return False, False, 0
    clean = reading.redundant == 0
    return True, clean, reading.steps if clean else 0


def _precision(reading: Reading) -> float:
    if reading.status in ("ambiguous", "unreadable"):
        return 0.0
    return 0.5 if reading.redundant else 1.0


def _identity(problem: Problem) -> str:
    """What `same` compares: the computation, or the text where there is none to compute."""
    text = " ".join(problem.instruction.split())
    if _is_ill_posed(problem):
        return text
    try:
        return program_key(program_of(problem))
    except ValueError:
        return text
