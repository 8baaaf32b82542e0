"""Ranked lists of instructions for the IRM: intact problems against versions with a known defect."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reward_models.records import RankedInstructions
from rleif.labeling.common import ask, check_fraction, is_held_out, pool_of, sample_by_hash
from rleif.labeling.defects import TEXT_DEFECTS
from rleif.records import Problem, stable_hash, write_jsonl
from rleif.settings import require_positive
from rleif.teachers.base import Ranking, Teacher
from rleif.teachers.named import teacher_by_name


@dataclass(frozen=True, slots=True, kw_only=True)
class RankArguments:
    """Arguments of the ranks stage.

    >>> arguments = RankArguments(output_dir="runs/toy", list_size=6)
    """

    output_dir: str = field(metadata={"help": "run directory that holds evolve/pool.jsonl"})
    teacher: Literal["symbolic", "none"] = field(
        default="symbolic", metadata={"help": "who ranks; none: each original above its versions with a known defect"}
    )
    list_size: int = field(
        default=6, metadata={"help": "problems of one list at most; WizardMath v3: the original and 5 evolved"}
    )
    lists_per_root: int = field(default=1, metadata={"help": "lists drawn from the problems of one seed"})
    max_lists: int | None = field(default=None, metadata={"help": "at most so many lists, held-out ones included"})
    heldout_fraction: float = field(default=0.1, metadata={"help": "share of the seeds whose lists are held out"})
    seed: int = field(default=0, metadata={"help": "decides every random draw"})
    concurrency: int = field(default=64, metadata={"help": "teacher calls in flight at most"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        require_positive(self, "max_lists", "concurrency")
        check_fraction("heldout_fraction", self.heldout_fraction)
        if self.list_size < 2 or self.lists_per_root < 1:
            raise ValueError(
                f"list_size must be >= 2 and lists_per_root >= 1, got {self.list_size} and {self.lists_per_root}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    """The members of one list before they are ranked."""

    root: str
    members: tuple[Problem, ...]  # defective ones carry meta["defect"]


def label_ranks(arguments: RankArguments) -> dict[str, Any]:
    """Run the stage. Writes label/ranked.jsonl and label/ranked_heldout.jsonl (RankedInstructions).

    All lists of one seed are on the same side of the split. Returns counts; `agreement` is the share of (intact,
    defective) pairs that the teacher puts in that order, None without a teacher, where the order is by construction.
    """
    pool = pool_of(arguments.output_dir)
    teacher = teacher_by_name(arguments.teacher, seed=arguments.seed)
    build = _text_lists if teacher is None else _symbolic_lists
    lists = sample_by_hash(build(pool, arguments), arguments.max_lists, arguments.seed, _name)
    rankings = _rank(teacher, lists, arguments)
    parts: dict[bool, list[RankedInstructions]] = {False: [], True: []}
    counts: Counter[str] = Counter()
    for members, ranking in zip(lists, rankings, strict=True):
        if isinstance(ranking, Exception):
            counts[f"failed: {type(ranking).__name__}"] += 1
        elif len(ranking.tiers) < 2:
            counts["all_tied"] += 1
        else:
            held_out = is_held_out(members.root, arguments.heldout_fraction, arguments.seed)
            parts[held_out].append(_record(members, ranking))
            counts.update(_pairs_in_order(members, ranking))
    folder = Path(arguments.output_dir) / "label"
    write_jsonl(folder / "ranked.jsonl", parts[False])
    write_jsonl(folder / "ranked_heldout.jsonl", parts[True])
    judged = counts.pop("in_order", 0), counts.pop("out_of_order", 0)
    return {
        "lists": len(parts[False]),
        "heldout_lists": len(parts[True]),
        "pairs": sum(len(list(record.pairs())) for record in parts[False]),
        "left_out": dict(sorted(counts.items())),
        "defects": _defects(lists),
        "agreement": judged[0] / sum(judged) if teacher is not None and sum(judged) else None,
    }


def _name(members: _List) -> str:
    return " ".join(problem.id for problem in members.members)


def _rank(teacher: Teacher | None, lists: Sequence[_List], arguments: RankArguments) -> list[Ranking | Exception]:
    if teacher is not None:
        return ask(
            teacher,
            lambda members: teacher.rank(members.members),
            lists,
            concurrency=arguments.concurrency,
            progress=arguments.progress,
            what="rank",
        )
    return [_by_construction(members.members) for members in lists]


def _by_construction(members: Sequence[Problem]) -> Ranking:
    intact = tuple(index for index, problem in enumerate(members) if problem.meta.get("defect") is None)
    defective = tuple(index for index in range(len(members)) if index not in intact)
    return Ranking(tiers=tuple(tier for tier in (intact, defective) if tier))


def _record(members: _List, ranking: Ranking) -> RankedInstructions:
    texts = [problem.instruction for problem in members.members]
    tiers = tuple(tuple(texts[index] for index in tier) for tier in ranking.tiers)
    order = [index for tier in ranking.tiers for index in tier]  # what is written has no order but that of the tiers
    aspects = {name: [values[index] for index in order] for name, values in ranking.aspects.items()} or None
    return RankedInstructions(tiers=tiers, aspects=aspects)


def _pairs_in_order(members: _List, ranking: Ranking) -> dict[str, int]:
    tier_of = {index: place for place, tier in enumerate(ranking.tiers) for index in tier}
    defective = {index for index, problem in enumerate(members.members) if problem.meta.get("defect") is not None}
    pairs = [(good, bad) for good in tier_of if good not in defective for bad in defective & set(tier_of)]
    right = sum(tier_of[good] < tier_of[bad] for good, bad in pairs)
    return {"in_order": right, "out_of_order": len(pairs) - right}


def _defects(lists: Iterable[_List]) -> dict[str, int]:
    found = Counter(problem.meta.get("defect") for members in lists for problem in members.members)
    return dict(sorted((str(name), count) for name, count in found.items() if name is not None))


def _symbolic_lists(pool: Sequence[Problem], arguments: RankArguments) -> list[_List]:
    """Lists from the problems of one seed: about half intact, the others made from them with known defects."""
    families: dict[str, list[Problem]] = defaultdict(list)
    for problem in pool:
        families[problem.root].append(problem)
    lists = []
    for root, family in families.items():
        for number in range(arguments.lists_per_root):
            rng = random.Random(stable_hash(arguments.seed, "ranks", root, number))
            members = _symbolic_members(family, arguments.list_size, rng)
            if len(members) >= 2:
                lists.append(_List(root=root, members=tuple(members)))
    return lists


def _symbolic_members(family: Sequence[Problem], size: int, rng: random.Random) -> list[Problem]:
    from rleif.teachers.symbolic import DEFECTS, defective

    intact = rng.sample(list(family), min(len(family), rng.randint(1, size - 1)))
    members = {problem.instruction: problem for problem in intact}
    bases = [problem for problem in intact if problem.meta.get("defect") is None]  # noise of the teacher is no base
    for _ in range(4 * size):  # a defect may not fit a problem, or repeat a text; a short list is fine
        if len(members) >= size or not bases:
            break
        try:
            problem = defective(rng.choice(bases), rng, rng.choice(DEFECTS))
        except ValueError:  # this defect does not fit this problem
            continue
        members.setdefault(problem.instruction, problem)
    shuffled = list(members.values())
    rng.shuffle(shuffled)  # the order of the input must say nothing about quality
    return shuffled


def _text_lists(pool: Sequence[Problem], arguments: RankArguments) -> list[_List]:
    """Each problem with its versions that have a known defect, the kinds in turn."""
    lists = []
    for problem in pool:
        for number in range(arguments.lists_per_root):
            rng = random.Random(stable_hash(arguments.seed, "ranks", problem.id, number))
            members = _text_members(problem, pool, arguments.list_size, rng)
            if len(members) >= 2:
                lists.append(_List(root=problem.root, members=tuple(members)))
    return lists


def _text_members(problem: Problem, pool: Sequence[Problem], size: int, rng: random.Random) -> list[Problem]:
    members = {problem.instruction: problem}
    kinds = list(TEXT_DEFECTS)
    rng.shuffle(kinds)
    for turn in range(3 * size):
        kind = kinds[turn % len(kinds)]
        text = TEXT_DEFECTS[kind](problem, rng.choice(pool), rng)
        if len(members) >= size:
            break
        if text is not None and text not in members:
            name = f"{problem.id}-{kind}-{turn}"
            meta = {"defect": kind}
            members[text] = Problem(id=name, instruction=text, parent=problem.id, root=problem.root, meta=meta)
    return list(members.values())
