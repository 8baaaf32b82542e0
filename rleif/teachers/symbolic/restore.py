"""The program behind a problem: from its meta, or read back from the text."""

from rleif.records import Problem
from rleif.teachers.symbolic.program import Program


def program_of(problem: Problem) -> Program:
    """Raises ValueError when the problem carries no program."""
    if "program" not in problem.meta:
        raise ValueError(f"problem {problem.id!r} has no program in its meta and cannot be judged symbolically")
    return Program.from_json(problem.meta["program"])
