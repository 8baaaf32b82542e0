"""The symbolic teacher: laws of the evolution operators, ranking, noise; results depend on the arguments alone."""

import asyncio
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rleif.records import Problem, stable_hash
from rleif.teachers.base import Draft, NoEvolution, Operator
from rleif.teachers.symbolic import (
    DEFECTS,
    SIZES,
    SymbolicTeacher,
    analyse,
    defective,
    edits,
    read,
    sample_problem,
    sizes_of,
)
from rleif.teachers.symbolic.program import Program, Quantity, evaluate
from rleif.teachers.symbolic.sample import MAX_STEPS

UP = ("add_constraints", "concretize", "increase_reasoning")
DOWN = ("lower_difficulty", "new_topic")
OPERATORS = {name: Operator(name=name, direction="up" if name in UP else "down") for name in (*UP, *DOWN)}
TEACHER = SymbolicTeacher(seed=0)


def evolve(
    problem: Problem, operator: str, rng: random.Random, teacher: SymbolicTeacher = TEACHER
) -> Draft | NoEvolution:
    return asyncio.run(teacher.evolve(problem, OPERATORS[operator], rng))


def as_problem(draft: Draft, parent: Problem) -> Problem:
    """A child as it comes back from a file."""
    return Problem(
        id=f"{parent.id}+",
        instruction=draft.instruction,
        answer=draft.answer,
        parent=parent.id,
        root=parent.root,
        round=parent.round + 1,
        meta=json.loads(json.dumps(draft.meta)),
    )


def problems(count: int, seed: int = 0, steps: Sequence[int] = (1, 2, 3, 4, 5, 6)) -> list[Problem]:
    rng = random.Random(seed)
    return [sample_problem(rng, steps[i % len(steps)]) for i in range(count)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_keep_their_laws(operator: str) -> None:
    rng = random.Random(1)
    evolved = 0
    for parent in problems(210):
        draft = evolve(parent, operator, rng)
        if isinstance(draft, NoEvolution):
            continue
        evolved += 1
        reading = analyse(draft.instruction)
        context = f"{parent.instruction}\n{draft.instruction}"
        assert (reading.status, str(reading.answer), reading.redundant) == ("solved", draft.answer, 0), context
        assert reading.steps == draft.meta["steps"], context
        more = draft.meta["steps"] - parent.meta["steps"]
        assert more == 1 if operator in UP else more < 0, context
        assert (draft.meta["theme"] == parent.meta["theme"]) == (operator != "new_topic"), context
        if operator in ("concretize", "increase_reasoning"):
            assert draft.answer == parent.answer, context
        if operator == "add_constraints":
            assert draft.answer != parent.answer, context
        assert draft.meta["program_key"] != parent.meta["program_key"], context
        # nouns are plural throughout, so no number is 1
        assert all(n >= 2 for q in Program.from_json(draft.meta["program"]).quantities for n in q.numbers), context
    assert evolved >= 120


def test_a_constraint_that_leaves_the_answer_as_it_was_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(owner: str, n: int) -> Quantity:
        return Quantity(id=n, relation="given", numbers=(n,), owner=owner, unit="tarts")

    parent = Program(theme="bakery", quantities=(told("Greta", 20),), target=20)
    both = (told("Greta", 20), told("Hugo", 40))
    unchanged, changed = (  # 40 - 20 = 20 and 40 + 20 = 60
        Quantity(id=1, relation="comparison", args=(40, 20), owner=None, unit="tarts"),
        Quantity(id=1, relation="total", args=(40, 20), owner=None, unit="tarts"),
    )
    drawn = iter(replace(parent, quantities=(*both, q), target=1) for q in (unchanged, changed))
    monkeypatch.setattr(edits, "extend", lambda *args, **options: next(drawn))
    child = edits.add_constraints(parent, random.Random(0), SIZES)
    assert child is not None
    assert evaluate(child)[child.target] == 60


@pytest.mark.parametrize("operator", DOWN)
def test_a_one_step_problem_has_no_easier_evolution(operator: str) -> None:
    for parent in problems(20, steps=[1]):
        outcome = evolve(parent, operator, random.Random(0))
        assert isinstance(outcome, NoEvolution)
        assert "step" in outcome.reason


@pytest.mark.parametrize("operator", UP)
def test_the_longest_problem_has_no_harder_evolution(operator: str) -> None:
    for parent in problems(5, steps=[MAX_STEPS]):
        assert isinstance(evolve(parent, operator, random.Random(0)), NoEvolution)


def test_an_unknown_operator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="lower_difficulty"):
        asyncio.run(TEACHER.evolve(problems(1)[0], Operator(name="deepen", direction="up"), random.Random(0)))


def test_five_rounds_of_two_thousand_problems_stay_true_and_move_in_the_right_direction() -> None:
    pools = [problems(400, seed=2, steps=(1, 2, 3))]
    rng = random.Random(3)
    for names in (UP, UP, UP, DOWN, DOWN):
        pool = []
        for parent in pools[-1]:
            draft = evolve(parent, rng.choice(names), rng)
            pool.append(parent if isinstance(draft, NoEvolution) else as_problem(draft, parent))
        pools.append(pool)
    distinct = {p.id: p for pool in pools for p in pool}
    assert len(distinct) >= 1900
    assert all(str(read(p.instruction)) == p.answer for p in distinct.values())
    mean = [sum(p.meta["steps"] for p in pool) / len(pool) for pool in pools]
    rises = [after > before for before, after in itertools.pairwise(mean)]
    assert rises == [True, True, True, False, False]


def test_evolution_works_on_the_bare_text_as_on_the_problem_with_its_meta() -> None:
    for parent, operator in itertools.product(problems(40, seed=4), OPERATORS):
        bare = Problem(id="bare", root="bare", instruction=parent.instruction)
        with_meta, without = (evolve(p, operator, random.Random(7)) for p in (parent, bare))
        if isinstance(with_meta, NoEvolution):
            assert without == with_meta
            continue
        assert isinstance(without, Draft)
        assert (without.instruction, without.answer) == (with_meta.instruction, with_meta.answer)
        assert without.meta["program_key"] == with_meta.meta["program_key"]


def test_results_do_not_depend_on_call_order_or_concurrency() -> None:
    parents = problems(60, seed=5, steps=(2, 3, 4))

    def rng(parent: Problem) -> random.Random:
        return random.Random(stable_hash("item", parent.id))

    async def together(order: list[Problem]) -> dict[str, Draft | NoEvolution]:
        teacher = SymbolicTeacher(seed=1, noise=0.3)
        calls = (teacher.evolve(p, OPERATORS["add_constraints"], rng(p)) for p in order)
        return dict(zip([p.id for p in order], await asyncio.gather(*calls), strict=True))

    state = random.getstate()
    forward, backward = asyncio.run(together(parents)), asyncio.run(together(parents[::-1]))
    alone = {p.id: evolve(p, "add_constraints", rng(p), SymbolicTeacher(seed=1, noise=0.3)) for p in parents}
    assert forward == backward == alone
    assert random.getstate() == state  # the global generator is left alone
    other_seed = {p.id: evolve(p, "add_constraints", rng(p), SymbolicTeacher(seed=2, noise=0.3)) for p in parents}
    assert other_seed != alone


def test_no_child_takes_more_steps_than_the_teacher_may_make():
    teacher = SymbolicTeacher(seed=0, max_steps=3)
    at_the_bound, below = problems(20, seed=3, steps=(3,)), problems(20, seed=3, steps=(2,))
    refused = [evolve(p, "increase_reasoning", random.Random(1), teacher) for p in at_the_bound]
    assert {child.reason for child in refused if isinstance(child, NoEvolution)} >= {"it would take more than 3 steps"}
    assert not any(isinstance(child, Draft) for child in refused)
    made = [evolve(p, "increase_reasoning", random.Random(1), teacher) for p in below]
    assert {child.meta["steps"] for child in made if isinstance(child, Draft)} == {3}
    with pytest.raises(ValueError, match="at least one operation"):
        SymbolicTeacher(max_steps=0)


_DIGEST = """
import asyncio, hashlib, random
from rleif.teachers.base import Operator
from rleif.teachers.symbolic import *
rng, teacher, digest = random.Random(0), SymbolicTeacher(noise=0.2), hashlib.sha256()
for i in range(12):
    problem = sample_problem(rng, 1 + i % 4)
    solution = asyncio.run(teacher.answer(problem))
    made = [corrupt(problem, solution, rng, kind) for kind in CORRUPTIONS]
    made += [defective(problem, rng, defect) for defect in DEFECTS]
    made += [
        asyncio.run(teacher.evolve(problem, Operator(name=name, direction="up"), rng))
        for name in ("add_constraints", "concretize", "increase_reasoning", "lower_difficulty", "new_topic")
    ]
    digest.update(repr(made).encode())
print(digest.hexdigest())
"""


def test_the_same_arguments_give_the_same_results_in_every_process() -> None:
    def digest(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    first = digest("1")
    assert len(first) == len(hashlib.sha256().hexdigest())
    assert first == digest("2")


def test_ranking_puts_harder_first_then_redundant_then_all_ill_posed_alike() -> None:
    rng = random.Random(6)
    for parent in problems(40, seed=6, steps=(2, 3, 4)):
        harder = evolve(parent, "add_constraints", rng)
        easier = evolve(parent, "lower_difficulty", rng)
        assert isinstance(harder, Draft)
        assert isinstance(easier, Draft)
        missing, contradiction, ambiguous, redundant = (defective(parent, rng, defect) for defect in DEFECTS)
        children = [missing, redundant, as_problem(easier, parent), contradiction, parent, ambiguous]
        ranking = asyncio.run(TEACHER.rank([*children, as_problem(harder, parent)]))
        assert ranking.tiers == ((6,), (4,), (2,), (1,), (0, 3, 5))
        assert ranking.aspects["definition"] == [0, 1, 1, 1, 1, 1, 1]
        assert ranking.aspects["precision"] == [1, 0.5, 1, 1, 1, 0, 1]
        assert ranking.aspects["integrity"] == [1, 1, 1, 0, 1, 1, 1]
        bare = [Problem(id=str(i), root="0", instruction=p.instruction) for i, p in enumerate(children)]
        assert asyncio.run(TEACHER.rank(bare)) == asyncio.run(TEACHER.rank(children))


def test_equal_problems_tie_and_an_empty_list_has_no_tiers() -> None:
    first, second = problems(2, seed=7, steps=[3])
    assert asyncio.run(TEACHER.rank([first, second])).tiers == ((0, 1),)
    assert asyncio.run(TEACHER.rank([])).tiers == ()


def test_the_same_computation_in_other_words_is_the_same_problem() -> None:
    def same(first: str, second: str) -> bool:
        return asyncio.run(TEACHER.same(*(Problem(id=t, root=t, instruction=t) for t in (first, second))))

    told = "Greta bakes 12 tarts. Hugo bakes 5 more tarts than Greta. How many tarts does Hugo bake?"
    retold = "Lars gathers exactly 12 eggs. Otto gathers 5 more eggs than Lars. Find how many eggs Otto gathers."
    assert same(told, retold)
    assert same(told, told.replace(" How", "  How"))
    assert not same(told, told.replace("5", "6"))
    assert not same(told, "Hugo bakes 5 more tarts than Greta. How many tarts does Hugo bake?")


def test_noise_comes_at_the_stated_rate_and_is_wrong_in_a_named_way() -> None:
    teacher = SymbolicTeacher(seed=0, noise=0.25)
    rng = random.Random(8)
    parents = problems(400, seed=8, steps=(2, 3))
    drafts = [(p, evolve(p, "add_constraints", rng, teacher)) for p in parents]
    dirty = [(p, d) for p, d in drafts if isinstance(d, Draft) and d.meta.get("noise")]
    # 400 draws at 0.25: 100 on average, standard deviation sqrt(400 * 0.25 * 0.75) = 8.7
    assert abs(len(dirty) - 100) < 4 * 8.7
    assert {d.meta["defect"] for _, d in dirty} == {"missing_premise", "contradiction", "ambiguous_referent"}
    for parent, draft in dirty:
        child = as_problem(draft, parent)
        assert read(child.instruction) is None
        solution = asyncio.run(teacher.answer(child))
        assert solution.answer == child.answer
        assert solution.steps[-1] == f"The answer is: {child.answer}"
        assert asyncio.run(teacher.label(child, solution.steps))[-2:] == (-1, 0)
        outcome = evolve(child, "add_constraints", rng, teacher)
        assert isinstance(outcome, NoEvolution)
        assert "ill-posed" in outcome.reason
    clean = [d for _, d in drafts if isinstance(d, Draft) and not d.meta.get("noise")]
    assert all(str(read(d.instruction)) == d.answer for d in clean)


def test_an_honest_teacher_does_not_answer_what_has_no_answer() -> None:
    parent = problems(1, steps=[3])[0]
    solution = asyncio.run(TEACHER.answer(defective(parent, random.Random(0), "contradiction")))
    assert solution.answer is None
    assert solution.steps == ("The problem does not have one answer.",)


def test_a_noise_rate_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        SymbolicTeacher(noise=1.5)


def test_a_world_of_few_relations_stays_in_them_through_every_evolution():
    chosen = {"more", "fewer", "comparison", "parts"}
    sizes = sizes_of("tiny", chosen)
    teacher = SymbolicTeacher(sizes=sizes)
    rng = random.Random(0)
    seen = set()
    for _ in range(60):
        problem = sample_problem(rng, rng.randint(1, 3), sizes)
        for operator in edits.EDITS:
            draft = asyncio.run(teacher.evolve(problem, Operator(name=operator, direction="up"), rng))
            if isinstance(draft, Draft):
                seen |= {q.relation for q in Program.from_json(draft.meta["program"]).quantities}
    assert seen == chosen | {"given"}


@pytest.mark.parametrize(
    ("numbers", "relations", "words"),
    [
        ("huge", None, "unknown numbers 'huge'; known: full, small, tiny"),
        ("tiny", ["more", "plus"], "unknown relations plus; known: given, groups"),
        ("tiny", ["parts"], r"relations \['parts'\] make no problem; give at least one of more, fewer"),
    ],
)
def test_sizes_that_do_not_exist_are_refused_with_what_does(numbers: str, relations: list[str], words: str):
    with pytest.raises(ValueError, match=words):
        sizes_of(numbers, relations)
