"""The symbolic teacher: the five verbs of the Teacher protocol, computed exactly."""

from collections.abc import Sequence

from rleif.records import Problem, Solution
from rleif.teachers.symbolic.judge import label_steps
from rleif.teachers.symbolic.render import solution_steps
from rleif.teachers.symbolic.restore import program_of


class SymbolicTeacher:
    name = "symbolic"

    def __init__(self, seed: int = 0, noise: float = 0.0) -> None:
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"noise = {noise}: a rate between 0 and 1")
        self.seed = seed
        self.noise = noise

    async def answer(self, problem: Problem) -> Solution:
        program = program_of(problem)
        steps = solution_steps(program)
        return Solution(
            problem_id=problem.id,
            instruction=problem.instruction,
            steps=steps,
            answer=problem.answer,
            by=self.name,
        )

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        return label_steps(program_of(problem), steps)
