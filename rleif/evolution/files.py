"""The evolve stage, files to files: seeds in; seeds, held-out problems, pool, rejections and report out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rleif.evolution.decontaminate import Decontaminator
from rleif.evolution.dedup import Exact, Key, MaskDigits
from rleif.evolution.evolve import EvolInstruct, screen
from rleif.evolution.pool import Pool
from rleif.evolution.schedules import SCHEDULES, Schedule, wizardmath_v1, wizardmath_v3
from rleif.records import Problem, stable_hash, write_jsonl
from rleif.sources import read_seeds, read_texts
from rleif.teachers.named import TEACHERS, teacher_by_name

DEDUP: dict[str, tuple[Key, ...]] = {"none": (), "exact": (Exact(),), "mask_digits": (Exact(), MaskDigits())}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolveArguments:
    """Arguments of `rleif evolve`. Defaults without a source are ours.

    >>> arguments = EvolveArguments(output_dir="runs/toy", num_seeds=100, num_heldout=20)
    """

    output_dir: str = field(metadata={"help": "run directory; the files go there"})
    seeds: str | None = field(default=None, metadata={"help": "JSONL of seed problems, own or GSM8K rows"})
    num_seeds: int | None = field(
        default=None, metadata={"help": "without seeds: how many symbolic problems; with seeds: use the first so many"}
    )
    min_steps: int = field(default=1, metadata={"help": "operations of the easiest symbolic seeds"})
    max_steps: int = field(default=3, metadata={"help": "operations of the hardest symbolic seeds"})
    teacher: Literal["symbolic", "none"] = field(
        default="symbolic", metadata={"help": "who evolves; none: the pool is the screened seeds"}
    )
    teacher_noise: float = field(
        default=0.0, metadata={"help": "rate of ill-posed children that the symbolic teacher lets through"}
    )
    numbers: Literal["full", "small", "tiny"] = field(
        default="full", metadata={"help": "how large the numbers of symbolic problems get; tiny suits a tiny model"}
    )
    relations: list[str] | None = field(
        default=None,
        metadata={"help": "what quantities of symbolic problems are defined by (more, fewer, times ...); default: all"},
    )
    max_evolved_steps: int | None = field(
        default=None, metadata={"help": "the symbolic teacher makes no problem of more operations than this"}
    )
    schedule: Literal["wizardmath_v1", "wizardmath_v3"] = field(
        default="wizardmath_v3", metadata={"help": "v3: 2 downward and 3 upward rounds; v1: 8 mixed turns"}
    )
    chains: Literal["one", "two"] = field(
        default="two", metadata={"help": "wizardmath_v3: upward from the seed (two) or from the last downward (one)"}
    )
    evolutions_per_round: int = field(
        default=1, metadata={"help": "samples per seed and round; WizardMath v3, section 3.1: 6"}
    )
    dedup: Literal["none", "exact", "mask_digits"] = field(
        default="exact", metadata={"help": "mask_digits: also the same text with other numbers is a duplicate"}
    )
    test_files: list[str] = field(
        default_factory=list, metadata={"help": "test sets to decontaminate against, name=path each"}
    )
    ngram_sizes: list[int] = field(
        default_factory=lambda: [13, 8], metadata={"help": "sizes of the word n-grams; the smallest decides"}
    )
    heldout: str | None = field(default=None, metadata={"help": "JSONL of held-out problems in place of drawn ones"})
    num_heldout: int = field(default=0, metadata={"help": "held-out problems: drawn, or the first so many of the file"})
    heldout_min_steps: int = field(default=1, metadata={"help": "operations of the easiest symbolic held-out problems"})
    heldout_max_steps: int = field(default=4, metadata={"help": "operations of the hardest symbolic held-out problems"})
    seed: int = field(default=0, metadata={"help": "decides every random draw"})
    concurrency: int = field(default=64, metadata={"help": "teacher calls in flight at most"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        _one_of("teacher", self.teacher, TEACHERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("dedup", self.dedup, DEDUP)
        from rleif.teachers.symbolic import sizes_of

        sizes_of(self.numbers, self.relations)
        if self.seeds is None and self.num_seeds is None:
            raise ValueError("give seeds (a JSONL path) or num_seeds (how many symbolic problems to draw)")
        for name in (
            "num_seeds",
            "num_heldout",
            "evolutions_per_round",
            "concurrency",
            "min_steps",
            "max_evolved_steps",
        ):
            value, least = getattr(self, name), 0 if name == "num_heldout" else 1
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        for low, high in (("min_steps", "max_steps"), ("heldout_min_steps", "heldout_max_steps")):
            if not 1 <= getattr(self, low) <= getattr(self, high):
                raise ValueError(f"1 <= {low} <= {high} needed, got {getattr(self, low)} and {getattr(self, high)}")
        for item in self.test_files:
            if not all(item.partition("=")):
                raise ValueError(f"test_files takes name=path, got {item!r}; for example gsm8k_test=gsm8k/test.jsonl")


def evolve_files(arguments: EvolveArguments) -> dict[str, Any]:
    """Run the stage. Writes seeds.jsonl, heldout.jsonl, evolve/{pool,rejected}.jsonl and evolve/report.json.

    Returns the report. heldout.jsonl is empty when none is asked for.
    """
    out = Path(arguments.output_dir)
    seeds, heldout = _problems(arguments)
    check = Decontaminator(_tests(arguments), n=arguments.ngram_sizes, held_out=heldout)
    pool = _evolve(arguments, seeds, check)
    write_jsonl(out / "seeds.jsonl", seeds)
    write_jsonl(out / "heldout.jsonl", heldout)
    write_jsonl(out / "evolve" / "pool.jsonl", pool.problems)
    write_jsonl(out / "evolve" / "rejected.jsonl", pool.rejections)
    report = {"teacher": arguments.teacher, "schedule": arguments.schedule, "heldout": len(heldout)} | pool.report()
    write_report(out / "evolve" / "report.json", report)
    return report


def _evolve(arguments: EvolveArguments, seeds: Sequence[Problem], check: Decontaminator) -> Pool:
    teacher = teacher_by_name(
        arguments.teacher,
        seed=arguments.seed,
        noise=arguments.teacher_noise,
        numbers=arguments.numbers,
        relations=arguments.relations,
        max_steps=arguments.max_evolved_steps,
    )
    dedup = DEDUP[arguments.dedup]
    if teacher is None:
        kept, rejected = screen(seeds, dedup, check)
        return Pool(problems=tuple(kept), rejections=tuple(rejected), seeds=len(seeds), tried=0)
    evol = EvolInstruct(
        teacher,
        _schedule(arguments),
        dedup=dedup,
        decontaminate=check,
        seed=arguments.seed,
        concurrency=arguments.concurrency,
        progress=arguments.progress,
    )
    return evol.run(seeds)


def _schedule(arguments: EvolveArguments) -> Schedule:
    if arguments.schedule == "wizardmath_v1":
        return wizardmath_v1(arguments.evolutions_per_round)
    return wizardmath_v3(arguments.evolutions_per_round, arguments.chains)


def _problems(arguments: EvolveArguments) -> tuple[list[Problem], list[Problem]]:
    """Seeds and held-out problems; no problem is in both."""
    if arguments.seeds is None:
        seeds = draw_problems(
            arguments.num_seeds or 0,
            (arguments.min_steps, arguments.max_steps),
            seed=arguments.seed,
            name="seed",
            numbers=arguments.numbers,
            relations=arguments.relations,
        )
    else:
        seeds = [problem for problem, _ in read_seeds(arguments.seeds)]
    if arguments.heldout is not None:
        heldout = [problem for problem, _ in read_seeds(arguments.heldout)]
        heldout = heldout[: arguments.num_heldout or None]
    elif arguments.seeds is None:
        steps = (arguments.heldout_min_steps, arguments.heldout_max_steps)
        heldout = draw_problems(
            arguments.num_heldout,
            steps,
            seed=arguments.seed,
            name="heldout",
            distinct=True,
            numbers=arguments.numbers,
            relations=arguments.relations,
        )
    else:
        # By hash, not by position: which problems are held out does not depend on the order of the file.
        order = sorted(seeds, key=lambda problem: stable_hash(arguments.seed, "heldout", problem.id))
        heldout = order[: arguments.num_heldout]
        held = {problem.id for problem in heldout}
        seeds = [problem for problem in seeds if problem.id not in held]
    return seeds[: arguments.num_seeds], heldout


def draw_problems(
    count: int,
    steps: tuple[int, int],
    *,
    seed: int,
    name: str,
    distinct: bool = False,
    numbers: str = "full",
    relations: Sequence[str] | None = None,
) -> list[Problem]:
    """Symbolic problems, as many of each number of steps in the range; each has its own stream. No text comes twice.

    distinct: no program twice either, by `meta["program_key"]`. Raises ValueError when the world has too few.
    """
    from rleif.teachers.symbolic import sample_problem, sizes_of

    sizes = sizes_of(numbers, relations)
    low, high = steps
    problems, seen, draws = [], set(), 0
    while len(problems) < count:
        if draws > 100 * count + 1000:
            raise ValueError(f"found {len(problems)} distinct problems of {low} to {high} steps, {count} asked for")
        rng = random.Random(stable_hash(seed, name, draws))
        problem = sample_problem(rng, low + len(problems) % (high - low + 1), sizes)
        draws += 1
        key = problem.meta["program_key"] if distinct else problem.id
        if key not in seen:
            seen.add(key)
            problems.append(problem)
    return problems


def _tests(arguments: EvolveArguments) -> dict[str, list[str]]:
    named = (item.partition("=") for item in arguments.test_files)
    return {name: read_texts(path) for name, _, path in named}


def write_report(path: Path, report: dict[str, Any]) -> None:
    write_jsonl(path, [report])  # one JSON object in one line is a JSON file, written whole or not at all


def _one_of(name: str, value: str, known: Sequence[str] | dict[str, Any] | Any) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
