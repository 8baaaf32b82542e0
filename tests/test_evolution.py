import asyncio
import random
from collections import Counter

import pytest

from rleif.evolution import (
    MATH_DOWN,
    MATH_UP,
    DownwardEvolution,
    EvolInstruct,
    Exact,
    MaskDigits,
    Pool,
    Schedule,
    UpwardEvolution,
    repeat,
    wizardmath_v1,
    wizardmath_v3,
)
from rleif.evolution.decontaminate import Decontaminator
from rleif.evolution.eliminate import CHECKED, WIZARDLM, answer_not_checkable
from rleif.records import Problem, Rejection, Solution, read_problems, read_rejections, write_jsonl
from rleif.teachers.base import Draft, NoEvolution
from rleif.teachers.scripted import ScriptedTeacher


def seed_problem(name: str, text: str | None = None) -> Problem:
    return Problem(id=name, root=name, instruction=text or f"{name} has some pens. How many pens is that?", answer="3")


def grow(problem: Problem, operator, rng: random.Random) -> str:
    return f"{problem.instruction} Now {operator.name} with {rng.randint(0, 10**9)}."


def growing_teacher(**scripts) -> ScriptedTeacher:
    return ScriptedTeacher(**({"evolve": grow, "same": lambda first, second: False} | scripts))


async def sleepy_grow(problem, operator, rng):
    # Later calls may finish first: the order of the results must not show it.
    await asyncio.sleep(0.001 * (ord(problem.id[0]) % 3))
    return grow(problem, operator, rng)


ANN, BEA, CLEO = (seed_problem(name) for name in ("Ann", "Bea", "Cleo"))
ONE_UP = Schedule(name="one_up", chains=(repeat(MATH_UP, 1),))
TWO_UP = Schedule(name="two_up", chains=(repeat(MATH_UP, 2),))


def test_the_result_is_the_same_at_concurrency_1_and_64():
    pools = [
        EvolInstruct(growing_teacher(evolve=sleepy_grow), wizardmath_v3(2), concurrency=n).run([ANN, BEA, CLEO])
        for n in (1, 64)
    ]
    assert pools[0] == pools[1]
    assert len(pools[0].problems) == 3 + 3 * 2 * 5


def test_a_seed_added_at_the_end_changes_nothing_for_the_others():
    few = EvolInstruct(growing_teacher(), wizardmath_v3(2)).run([ANN, BEA])
    more = EvolInstruct(growing_teacher(), wizardmath_v3(2)).run([ANN, BEA, CLEO])
    assert more.problems[: len(few.problems)] == few.problems
    assert all(problem.root == "Cleo" for problem in more.problems[len(few.problems) :])


def test_a_seed_added_at_the_front_changes_no_draw_of_the_others():
    few = EvolInstruct(growing_teacher(), wizardmath_v1()).run([ANN, BEA])
    more = EvolInstruct(growing_teacher(), wizardmath_v1()).run([CLEO, ANN, BEA])
    assert all(problem in more.problems for problem in few.problems)


def test_another_seed_number_draws_other_evolutions():
    first = EvolInstruct(growing_teacher(), wizardmath_v3(1), seed=0).run([ANN])
    second = EvolInstruct(growing_teacher(), wizardmath_v3(1), seed=1).run([ANN])
    assert {p.instruction for p in first.problems[1:]}.isdisjoint(p.instruction for p in second.problems[1:])
    assert {p.id for p in first.problems[1:]}.isdisjoint(p.id for p in second.problems[1:])


def test_wizardmath_v3_runs_two_chains_from_the_seed_by_default_and_one_on_request():
    two = EvolInstruct(growing_teacher(), wizardmath_v3(1)).run([ANN])
    assert [(p.direction, p.round) for p in two.problems[1:]] == [
        ("down", 1),
        ("up", 1),
        ("down", 2),
        ("up", 2),
        ("up", 3),
    ]
    assert [p.direction for p in two.lineage(two.problems[-1].id)] == [None, "up", "up", "up"]
    one = EvolInstruct(growing_teacher(), wizardmath_v3(1, chains="one")).run([ANN])
    assert [p.direction for p in one.lineage(one.problems[-1].id)] == [None, "down", "down", "up", "up", "up"]


def test_wizardmath_v1_draws_upward_and_downward_operators_uniformly_over_eight_turns():
    seeds = [seed_problem(f"s{i}") for i in range(250)]
    pool = EvolInstruct(growing_teacher(), wizardmath_v1()).run(seeds)
    counts = Counter(p.operator for p in pool.problems if p.operator)
    assert pool.tried == 250 * 8
    assert set(counts) == {*MATH_UP, *MATH_DOWN}
    assert all(320 <= count <= 480 for count in counts.values())  # 400 expected, standard deviation 17.9


def test_upward_and_downward_evolution_are_policies_over_the_one_loop():
    up = UpwardEvolution(growing_teacher(), rounds=2, evolutions_per_round=3).run([ANN])
    down = DownwardEvolution(growing_teacher()).run([ANN])
    assert [p.direction for p in up.problems[1:]] == ["up"] * 6
    assert [(p.direction, p.round) for p in down.problems[1:]] == [("down", 1), ("down", 2)]


def test_samples_of_one_round_differ_and_go_on_from_their_own_results():
    pool = EvolInstruct(growing_teacher(), Schedule(name="s", chains=TWO_UP.chains, evolutions_per_round=3)).run([ANN])
    first, second = [[p for p in pool.problems if p.round == number] for number in (1, 2)]
    assert len({p.instruction for p in first}) == 3
    assert [p.parent for p in second] == [p.id for p in first]


def test_a_failed_child_leaves_its_parent_unchanged_and_it_is_tried_again_next_round():
    outcomes = iter([NoEvolution(reason="nothing to add"), Draft(instruction="Ann has five pens. How many is that?")])
    teacher = growing_teacher(evolve=lambda problem, operator, rng: next(outcomes))
    pool = EvolInstruct(teacher, TWO_UP).run([ANN])
    assert [p.instruction for p in pool.problems] == [ANN.instruction, "Ann has five pens. How many is that?"]
    assert (pool.problems[1].parent, pool.problems[1].round) == ("Ann", 2)
    (rejection,) = pool.rejections
    assert (rejection.status, rejection.rule, rejection.evidence) == (
        "eliminated",
        "no_such_evolution",
        "nothing to add",
    )
    assert (rejection.problem.parent, rejection.problem.round) == ("Ann", 1)


def test_a_teacher_that_raises_loses_one_child_and_not_the_run():
    def moody(problem, operator, rng):
        if problem.root == "Bea":
            raise TimeoutError("no reply in 60 s")
        return grow(problem, operator, rng)

    pool = EvolInstruct(growing_teacher(evolve=moody), TWO_UP).run([ANN, BEA, CLEO])
    assert Counter(p.root for p in pool.problems) == {"Ann": 3, "Bea": 1, "Cleo": 3}
    assert {(r.status, r.rule, r.evidence) for r in pool.rejections} == {
        ("failed", "teacher_error", "TimeoutError: no reply in 60 s")
    }


@pytest.mark.parametrize("reply", [None, Draft(instruction=None), Draft(instruction="lone \ud800 surrogate")])  # type: ignore[arg-type]
def test_a_reply_that_is_no_text_fails_one_child_only(reply, tmp_path):
    teacher = growing_teacher(evolve=lambda problem, operator, rng: reply)
    pool = EvolInstruct(teacher, ONE_UP).run([ANN])
    assert [r.status for r in pool.rejections] == ["failed"]
    write_jsonl(tmp_path / "rejected.jsonl", pool.rejections)
    assert read_rejections(tmp_path / "rejected.jsonl") == list(pool.rejections)


def test_an_exception_in_a_judgement_of_the_teacher_is_recorded_with_the_child():
    teacher = growing_teacher(same=lambda first, second: RuntimeError("down"))
    pool = EvolInstruct(teacher, ONE_UP).run([ANN])
    (rejection,) = pool.rejections
    assert (rejection.status, rejection.evidence) == ("failed", "RuntimeError: down")
    assert rejection.problem.instruction.startswith(ANN.instruction)


def test_every_evolution_tried_is_kept_or_rejected():
    def mixed(problem, operator, rng):
        draw = rng.randint(0, 5)
        replies = [problem.instruction, "too short", "#Rewritten Prompt#: a b c d", NoEvolution(reason="none")]
        if draw == 5:
            raise ValueError("broken")
        return replies[draw] if draw < 4 else grow(problem, operator, rng)

    seeds = [seed_problem(f"s{i}") for i in range(40)]
    pool = EvolInstruct(growing_teacher(evolve=mixed), wizardmath_v3(3)).run(seeds)
    assert pool.tried == 40 * 3 * 5
    assert len(pool.problems) + len(pool.rejections) == 40 + pool.tried
    report = pool.report()
    rejected = report["children"]["rejected"]
    assert set(rejected) - {"duplicate/exact"} == {
        "eliminated/copied_evolver_words",
        "eliminated/no_information_gain",
        "eliminated/no_such_evolution",
        "eliminated/too_short",
        "failed/teacher_error",
    }
    assert report["children"]["kept"] + sum(rejected.values()) == pool.tried
    assert sum(row["tried"] for row in report["survival"]) == pool.tried
    for row in report["survival"]:
        assert row["tried"] == row["kept"] + sum(row["rejected"].values())


def test_a_pool_whose_counts_do_not_add_up_cannot_be_made():
    with pytest.raises(AssertionError, match="1 records for 1 seeds and 1 evolutions"):
        Pool(problems=(ANN,), rejections=(), seeds=1, tried=1)


def test_ids_depend_on_parent_operator_teacher_round_attempt_and_seed_alone():
    pool = EvolInstruct(growing_teacher(), wizardmath_v3(6)).run([ANN, BEA])
    assert len({p.id for p in pool.problems}) == len(pool.problems)
    renamed = EvolInstruct(growing_teacher(name="other"), wizardmath_v3(6)).run([ANN, BEA])
    assert {p.id for p in pool.problems} & {p.id for p in renamed.problems} == {"Ann", "Bea"}


def test_lineage_runs_from_the_root_and_crosses_a_rejected_ancestor():
    # Both families make the same first child; Bea's is the duplicate, its own child is new and stays.
    texts = {
        (ANN.instruction): "Somebody has four pens. How many is that?",
        (BEA.instruction): "Somebody has four pens. How many is that?",
    }

    def evolve(problem, operator, rng):
        return texts.get(problem.instruction, f"{problem.root} has nine pens. How many is that?")

    pool = EvolInstruct(growing_teacher(evolve=evolve), TWO_UP).run([ANN, BEA])
    (duplicate,) = pool.rejections
    assert (duplicate.status, duplicate.rule, duplicate.problem.root) == ("duplicate", "exact", "Bea")
    kept_first = next(p for p in pool.problems if p.instruction.startswith("Somebody"))
    assert duplicate.evidence == f"same as {kept_first.id}"
    grandchild = next(p for p in pool.problems if p.instruction.startswith("Bea has nine"))
    assert [p.id for p in pool.lineage(grandchild.id)] == ["Bea", duplicate.problem.id, grandchild.id]
    with pytest.raises(ValueError, match="no problem 'nobody'"):
        pool.lineage("nobody")


def test_seeds_are_never_lost_to_a_child_with_the_same_text():
    teacher = growing_teacher(evolve=lambda problem, operator, rng: BEA.instruction)
    pool = EvolInstruct(teacher, ONE_UP).run([ANN, BEA])
    assert [p.id for p in pool.problems] == ["Ann", "Bea"]
    assert {(r.status, r.rule) for r in pool.rejections} == {
        ("duplicate", "exact"),
        ("eliminated", "no_information_gain"),
    }


def test_duplicate_seeds_are_rejected_before_they_cost_a_call():
    teacher = growing_teacher()
    pool = EvolInstruct(teacher, ONE_UP).run([ANN, seed_problem("Ann2", ANN.instruction.upper() + "!")])
    assert teacher.calls["evolve"] == 1
    assert pool.report()["seeds"] == {"given": 2, "kept": 1, "rejected": {"duplicate/exact": 1}}


def test_contaminated_children_do_not_continue_the_chain():
    texts = iter(["The old mill grinds nine sacks of corn every day.", "Ann has eleven pens. How many is that?"])
    teacher = growing_teacher(evolve=lambda problem, operator, rng: next(texts))
    check = Decontaminator({"test": ["Listen: the old mill grinds nine sacks of corn every day, it is said."]})
    pool = EvolInstruct(teacher, TWO_UP, decontaminate=check).run([ANN])
    assert [(r.status, r.rule) for r in pool.rejections] == [("contaminated", "8gram")]
    assert pool.problems[1].parent == "Ann"


def test_no_seeds_and_repeated_seed_ids_are_errors():
    evol = EvolInstruct(growing_teacher(), ONE_UP)
    with pytest.raises(ValueError, match="no seed problems"):
        evol.run([])
    with pytest.raises(ValueError, match="'Ann' occurs 2 times"):
        evol.run([ANN, ANN])
    with pytest.raises(ValueError, match="concurrency must be >= 1, got 0"):
        EvolInstruct(growing_teacher(), ONE_UP, concurrency=0)


def test_inside_an_event_loop_run_says_what_to_do_and_arun_works():
    async def notebook():
        evol = EvolInstruct(growing_teacher(), ONE_UP)
        with pytest.raises(RuntimeError, match=r"await evol\.arun"):
            evol.run([ANN])
        return await evol.arun([ANN])

    assert len(asyncio.run(notebook()).problems) == 2


def test_no_more_calls_are_in_flight_than_concurrency_allows():
    flying, most = 0, 0

    async def evolve(problem, operator, rng):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        return grow(problem, operator, rng)

    seeds = [seed_problem(f"s{i}") for i in range(10)]
    EvolInstruct(growing_teacher(evolve=evolve), wizardmath_v3(6), concurrency=5).run(seeds)
    assert most == 5


def test_the_report_gives_mean_steps_by_direction_and_round():
    def evolve(problem, operator, rng):
        steps = problem.meta["steps"] + (1 if operator.direction == "up" else -1)
        return Draft(instruction=grow(problem, operator, rng), meta={"steps": steps})

    seeds = [
        Problem(id=name, root=name, instruction=f"{name} has pens, how many?", meta={"steps": steps})
        for name, steps in (("a", 2), ("b", 5))
    ]
    report = EvolInstruct(growing_teacher(evolve=evolve), wizardmath_v3(1)).run(seeds).report()
    means = {(row["direction"], row["round"]): row["mean_steps"] for row in report["steps"]}
    assert means == {  # seeds (2 + 5) / 2 = 3.5, then one more or one less per round
        ("seed", 0): 3.5,
        ("down", 1): 2.5,
        ("down", 2): 1.5,
        ("up", 1): 4.5,
        ("up", 2): 5.5,
        ("up", 3): 6.5,
    }


def solution(answer: str | None, *steps: str) -> Solution:
    return Solution(problem_id="p", instruction="", steps=steps, answer=answer, by="scripted")


@pytest.mark.parametrize(
    ("child", "response", "rules", "expected"),
    [
        ("", solution("3", "3"), CHECKED, ("too_short", "0 words, fewer than 4")),
        (
            "Here is the #Rewritten Instruction#: how many?",
            solution("3", "3"),
            WIZARDLM,
            ("copied_evolver_words", "contains '#rewritten instruction#'"),
        ),
        (
            "ann  HAS some pens; how many pens is that",
            solution("3", "3"),
            WIZARDLM,
            ("no_information_gain", "same"),
        ),
        (
            "What is the weather like on Mars?",
            solution(None, "Sorry, I cannot say."),
            WIZARDLM,
            ("refused_response", "the response says 'sorry' in 4 words"),
        ),
        (
            "How many pens are there now?",
            solution(None, "And the ... of it!"),
            WIZARDLM,
            ("empty_response", "no"),
        ),
        ("How many pens are there now?", solution(None, "Many pens."), CHECKED, ("unanswered", "states no answer")),
        (
            "How many pens are there now?",
            solution(" ", "Many pens."),
            (answer_not_checkable,),
            ("answer_not_checkable", "there is no reference answer"),
        ),
        (
            "How many pens are there now?",
            solution("(" * 5000 + "x", "Many pens."),
            (answer_not_checkable,),
            ("answer_not_checkable", "graded against itself is error"),
        ),
    ],
)
def test_each_elimination_rule_names_itself_and_what_it_saw(child, response, rules, expected):
    teacher = growing_teacher(evolve=lambda problem, operator, rng: child, answer=lambda problem: response)
    pool = EvolInstruct(teacher, ONE_UP, eliminate=rules).run([ANN])
    (rejection,) = pool.rejections
    assert (rejection.status, rejection.rule) == ("eliminated", expected[0])
    assert expected[1] in rejection.evidence


def test_a_good_child_passes_all_rules_and_its_response_is_asked_for_once():
    teacher = growing_teacher(answer=lambda problem: solution("3", "Ann has 1 + 2 = 3 pens.", "The answer is: 3"))
    pool = EvolInstruct(teacher, ONE_UP, eliminate=(*CHECKED, *WIZARDLM, answer_not_checkable)).run([ANN])
    assert len(pool.problems) == 2
    assert teacher.calls["answer"] == 1


def test_a_long_response_that_says_sorry_is_no_refusal():
    text = "Tom says sorry and pays. " * 20  # 100 words
    teacher = growing_teacher(answer=lambda problem: solution("3", text))
    pool = EvolInstruct(teacher, ONE_UP, eliminate=WIZARDLM).run([ANN])
    assert len(pool.problems) == 2


def test_words_of_the_evolver_that_the_parent_already_holds_do_not_count():
    parent = seed_problem("p", "Rate the given prompt about pens from 1 to 10.")
    pool = EvolInstruct(growing_teacher(), ONE_UP).run([parent])
    assert len(pool.problems) == 2


@pytest.mark.parametrize(
    ("first", "second", "exact", "masked"),
    [
        ("Ann has 3 pens.", "ann   has 3 PENS", True, True),
        ("Ann has 3 pens.", "Ann has 4 pens.", False, True),
        ("It costs $1,080.", "It costs 1080!", True, True),
        ("It costs 1.5 a piece.", "It costs 15 a piece.", False, True),
        ("What is 3 + 4?", "What is 3 * 4?", False, False),
        ("What is 3 - 4?", "What is 3 4?", False, False),
        ("Ann has 3 pens.", "Bea has 3 pens.", False, False),
    ],
)
def test_dedup_keys(first, second, exact, masked):
    assert (Exact()(first) == Exact()(second)) is exact
    assert (MaskDigits()(first) == MaskDigits()(second)) is masked


def test_masked_duplicates_name_the_first():
    texts = iter(["Ann has 4 pens. How many is that?", "Ann has 72 pens. How many is that?"])
    teacher = growing_teacher(evolve=lambda problem, operator, rng: next(texts))
    pool = EvolInstruct(teacher, TWO_UP, dedup=(Exact(), MaskDigits())).run([ANN])
    (rejection,) = pool.rejections
    assert isinstance(rejection, Rejection)
    assert (rejection.rule, rejection.evidence) == ("digit_masked", f"same as {pool.problems[1].id}")


def test_a_pool_survives_the_way_to_a_file_and_back(tmp_path):
    pool = EvolInstruct(growing_teacher(), wizardmath_v3(2)).run([ANN])
    write_jsonl(tmp_path / "pool.jsonl", pool.problems)
    assert read_problems(tmp_path / "pool.jsonl") == list(pool.problems)


def test_schedules_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="'one' or 'two', got 'three'"):
        wizardmath_v3(chains="three")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="evolutions_per_round must be >= 1"):
        wizardmath_v3(0)
    with pytest.raises(ValueError, match="every chain needs a turn"):
        Schedule(name="empty", chains=())
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        UpwardEvolution(growing_teacher(), rounds=0)


def test_a_scripted_teacher_answers_from_tables_and_says_what_it_lacks():
    teacher = ScriptedTeacher(evolve={(ANN.instruction, "concretize"): "by both", BEA.instruction: "by text"})
    operator = MATH_UP["concretize"]
    assert asyncio.run(teacher.evolve(ANN, operator, random.Random(0))) == Draft(instruction="by both")
    assert asyncio.run(teacher.evolve(BEA, operator, random.Random(0))) == Draft(instruction="by text")
    with pytest.raises(KeyError, match="has no entry for"):
        asyncio.run(teacher.evolve(CLEO, operator, random.Random(0)))
    with pytest.raises(KeyError, match="no script for 'rank'"):
        asyncio.run(teacher.rank([ANN]))
    assert teacher.calls == {"evolve": 3, "rank": 1}
