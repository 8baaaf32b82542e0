"""Is the world of word problems right, and how fast is it? Prints a table and writes JSON.

    python benchmarks/world/run.py [--seeds 4500] [--seed 0] [--data FOLDER] [--output FILE]

Seeds go through three upward and two downward rounds. Every problem of every round is read back by the independent
reader, its solution's equations are evaluated, its labels must all be +1, and its 8-grams are looked up in GSM8K test.
Exits with 1 when one of the claims does not hold.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from rleif import __version__
from rleif.records import Problem, stable_hash, stable_id
from rleif.teachers.base import NoEvolution, Operator
from rleif.teachers.symbolic import SymbolicTeacher, read, sample_problem

ROOT = Path(__file__).resolve().parents[2]
UP = ("add_constraints", "concretize", "increase_reasoning")
DOWN = ("lower_difficulty", "new_topic")
ROUNDS = (UP, UP, UP, DOWN, DOWN)
LEAST_PROBLEMS, MOST_CPU_SECONDS = 20_000, 60.0  # to make and evolve, answer, read and label them all
_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+)(?: / (\d+))? = (\d+)")


async def evolve(seeds: list[Problem], teacher: SymbolicTeacher, seed: int) -> list[list[Problem]]:
    """The pool after every round, the seeds first. A problem that cannot evolve stays as it is."""
    pools = [seeds]
    for number, names in enumerate(ROUNDS, start=1):
        pool = []
        for problem in pools[-1]:
            rng = random.Random(stable_hash(seed, problem.root, number))
            operator = Operator(name=rng.choice(names), direction="up" if names is UP else "down")
            draft = await teacher.evolve(problem, operator, rng)
            pool.append(problem if isinstance(draft, NoEvolution) else _child(problem, operator, draft, number))
        pools.append(pool)
    return pools


def _child(parent: Problem, operator: Operator, draft: Any, number: int) -> Problem:
    return Problem(
        id=stable_id(parent.id, operator.name, number),
        instruction=draft.instruction,
        answer=draft.answer,
        parent=parent.id,
        root=parent.root,
        round=number,
        operator=operator.name,
        direction=operator.direction,
        teacher="symbolic",
        meta=draft.meta,
    )


def false_equations(steps: Iterable[str]) -> int:
    """Steps (the answer line aside) that hold no equation, or a false one; evaluated here, not by the library."""
    apply = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
    false = 0
    for step in steps:
        match = _EQUATION.search(step)
        if match is None:
            false += 1
            continue
        left = apply[match[2]](Fraction(match[1]), Fraction(match[3])) / int(match[4] or 1)
        false += left != int(match[5])
    return false


def ngrams(text: str, n: int = 8) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def find_test_set(folder: str | None) -> Path | None:
    for place in (folder, os.environ.get("RLEIF_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if place and (path := Path(place) / "gsm8k" / "test.jsonl").is_file():
            return path
    return None


def shared_ngrams(problems: Iterable[Problem], test_set: Path) -> int:
    rows = map(json.loads, test_set.read_text(encoding="utf-8").splitlines())
    known: set[tuple[str, ...]] = set().union(*(ngrams(row["question"]) | ngrams(row["answer"]) for row in rows))
    return sum(len(ngrams(p.instruction) & known) for p in problems)


async def check(problems: list[Problem], teacher: SymbolicTeacher) -> dict[str, int]:
    """How many problems or steps break each law."""
    broken = Counter(reader_disagrees=0, false_equations=0, labels_not_right=0)
    for problem in problems:
        solution = await teacher.answer(problem)
        answer = read(problem.instruction)
        broken["reader_disagrees"] += (
            answer is None or str(answer) != problem.answer or solution.answer != problem.answer
        )
        broken["false_equations"] += false_equations(solution.steps[:-1])
        broken["labels_not_right"] += set(await teacher.label(problem, solution.steps)) != {1}
    return dict(broken)


def measure(n_seeds: int, seed: int, data: str | None) -> dict[str, Any]:
    teacher = SymbolicTeacher(seed=seed)
    start = time.process_time()
    rngs = (random.Random(stable_hash("seed problem", seed, i)) for i in range(n_seeds))
    seeds = [sample_problem(rng, steps=1 + i % 3) for i, rng in enumerate(rngs)]
    pools = asyncio.run(evolve(seeds, teacher, seed))
    problems = [p for number, pool in enumerate(pools) for p in pool if p.round == number]
    evolved = time.process_time()
    broken = asyncio.run(check(problems, teacher))
    checked = time.process_time()
    test_set = find_test_set(data)
    return {
        "problems": len(problems),
        "distinct_texts": len({p.instruction for p in problems}),
        "distinct_programs": len({p.meta["program_key"] for p in problems}),
        "mean_steps": [round(sum(p.meta["steps"] for p in pool) / len(pool), 3) for pool in pools],
        "no_such_evolution": [sum(p.round != number for p in pool) for number, pool in enumerate(pools)],
        "mean_words": [round(sum(len(p.instruction.split()) for p in pool) / len(pool), 1) for pool in pools],
        **broken,
        "shared_8grams_gsm8k_test": None if test_set is None else shared_ngrams(problems, test_set),
        "cpu_seconds": {
            "make_and_evolve": round(evolved - start, 2),
            "answer_read_label": round(checked - evolved, 2),
        },
    }


def failures(result: dict[str, Any]) -> list[str]:
    """The claims that do not hold. What could not be looked up is no failure; `not_checked` names it. The time is a
    claim about LEAST_PROBLEMS or more."""
    steps = result["mean_steps"]
    rises = [after > before for before, after in itertools.pairwise(steps)]
    names = ("reader_disagrees", "false_equations", "labels_not_right", "shared_8grams_gsm8k_test")
    failed = [name for name in names if result[name]]
    if result["problems"] >= LEAST_PROBLEMS and sum(result["cpu_seconds"].values()) > MOST_CPU_SECONDS:
        failed.append("cpu_seconds")
    return failed if rises == [operators is UP for operators in ROUNDS] else [*failed, "mean_steps"]


def _git(*arguments: str) -> str | None:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None


def provenance() -> dict[str, Any]:
    measured = ("rleif/teachers/symbolic", "benchmarks/world/run.py")
    return {
        "command": " ".join(["python benchmarks/world/run.py", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", *measured)),
        "versions": {"rleif": __version__, "python": platform.python_version()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4500, help="seed problems; each gives up to 6 problems in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder that holds gsm8k/test.jsonl (default: $RLEIF_DATA, then data/)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    result = {**provenance(), "seed": args.seed, **measure(args.seeds, args.seed, args.data)}
    result["failed"] = failures(result)
    result["not_checked"] = [name for name, value in result.items() if value is None]
    text = json.dumps(result, indent=1)
    args.output.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
