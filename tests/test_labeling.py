import random
from collections import Counter

import pytest

from reward_models.records import read_labeled, read_ranked
from reward_models.steps import split_steps
from rleif.evolution import EvolveArguments, evolve_files
from rleif.evolution.files import draw_problems
from rleif.labeling import (
    AnswerArguments,
    RankArguments,
    StepArguments,
    check_steps,
    find_equations,
    label_answers,
    label_ranks,
    label_steps,
)
from rleif.labeling.common import ask, is_held_out
from rleif.labeling.defects import TEXT_DEFECTS, sentences
from rleif.labeling.injections import INJECTIONS, inject
from rleif.records import (
    DataError,
    Problem,
    read_problems,
    read_rejections,
    read_solutions,
    write_jsonl,
)
from rleif.sources import gold_solution, gsm8k_row
from rleif.teachers.scripted import ScriptedTeacher
from rleif.teachers.symbolic import SymbolicTeacher, read
from rleif.teachers.symbolic.program import Program

CLIPS = {
    "question": "Natalia sold clips to 48 of her friends in April.  Mr. Po then bought 7 more. She sold half as many "
    "clips in May as in April. How many clips did she sell in April and May?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nIn April and May that is 48+24 = <<48+24=72>>72 clips."
    "\nWith Mr. Po's it is 72+7 = <<72+7=79>>79.\n#### 79",
}
PROBLEM = gsm8k_row(CLIPS)[0]
OTHER = gsm8k_row({"question": "Bo has 3 cats. How many legs do they have?", "answer": "3*4=<<3*4=12>>12\n#### 12"})[0]


@pytest.fixture(scope="module")
def symbolic_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbolic")
    evolve_files(EvolveArguments(output_dir=str(folder), num_seeds=40, max_steps=3, progress=False))
    return folder


@pytest.fixture
def text_run(tmp_path):
    names = ["Ann", "Bea", "Cleo", "Dora", "Eve", "Fay", "Gwen", "Hana"]
    rows = [
        {"question": CLIPS["question"].replace("Natalia", name), "answer": CLIPS["answer"].replace("Natalia", name)}
        for name in names
    ]
    write_jsonl(tmp_path / "evolve" / "pool.jsonl", [gsm8k_row(row)[0] for row in rows])
    return tmp_path


def test_answers_of_the_symbolic_teacher_reach_the_known_answers(symbolic_run):
    report = label_answers(AnswerArguments(output_dir=str(symbolic_run), keep="known_answer", progress=False))
    pool = read_problems(symbolic_run / "evolve" / "pool.jsonl")
    solutions = read_solutions(symbolic_run / "label" / "answers.jsonl")
    assert report["agreement"] == 1.0
    assert [solution.problem_id for solution in solutions] == [problem.id for problem in pool]
    assert all(solution.steps[-1] == f"The answer is: {solution.answer}" for solution in solutions)


def test_a_careless_teacher_errs_at_the_stated_rate_and_only_where_it_should(tmp_path):
    rows = draw_problems(400, (2, 3), seed=3, name="careless")
    write_jsonl(tmp_path / "evolve" / "pool.jsonl", rows)
    report = label_answers(AnswerArguments(output_dir=str(tmp_path), error_rate=0.3, progress=False))
    # 400 draws at 0.3: standard deviation 0.023, and a few problems offer no slip.
    assert 0.2 < 1 - report["agreement"] < 0.38
    again = label_answers(AnswerArguments(output_dir=str(tmp_path), error_rate=0.3, max_problems=40, progress=False))
    assert again["kept"] == 40
    with pytest.raises(ValueError, match="error_kind must be one of slip, misread, got 'typo'"):
        AnswerArguments(output_dir="x", error_kind="typo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"error_rate must lie in \[0, 1\], got 1.5"):
        AnswerArguments(output_dir="x", error_rate=1.5)
    with pytest.raises(ValueError, match="needs teacher symbolic"):
        AnswerArguments(output_dir="x", error_rate=0.1, teacher="none")


def test_a_teacher_with_a_habit_errs_only_where_a_relation_can_be_misread(tmp_path):
    rows = draw_problems(60, (2, 3), seed=3, name="habit")
    write_jsonl(tmp_path / "evolve" / "pool.jsonl", rows)
    arguments = AnswerArguments(output_dir=str(tmp_path), error_rate=1.0, error_kind="misread", progress=False)
    report = label_answers(arguments)
    given = {problem.id: problem.answer for problem in rows}
    wrong = {
        solution.problem_id
        for solution in read_solutions(tmp_path / "label" / "answers.jsonl")
        if solution.answer != given[solution.problem_id]
    }

    def relations(problem):
        return {quantity.relation for quantity in Program.from_json(problem.meta["program"]).quantities}

    misread = {problem.id for problem in rows if {"fewer", "share", "comparison"} & relations(problem)}
    assert report["kept"] == 60
    assert 0 < len(wrong) < 60
    assert wrong <= misread


def test_answers_that_miss_the_known_answer_are_kept_apart_with_the_reason(tmp_path):
    wrong = gsm8k_row(CLIPS | {"question": "Wrong?"})[0]
    unknown = gsm8k_row(CLIPS | {"question": "Unknown?"})[0]
    rows = [
        PROBLEM,
        Problem(id="w", root="w", instruction="Wrong?", answer="80", meta=wrong.meta),
        Problem(id="u", root="u", instruction="Unknown?", meta=unknown.meta),
    ]
    write_jsonl(tmp_path / "evolve" / "pool.jsonl", rows)
    arguments = AnswerArguments(output_dir=str(tmp_path), teacher="none", keep="known_answer", progress=False)
    report = label_answers(arguments)
    assert (report["kept"], report["rejected"], report["agreement"]) == (1, {"known_answer": 2}, 0.5)
    rejections = {r.problem.id: r.evidence for r in read_rejections(tmp_path / "label" / "answers_rejected.jsonl")}
    assert rejections["w"] == "graded wrong: the solution says '80', the problem '80'"
    assert rejections["u"].startswith("no known answer")
    assert label_answers(AnswerArguments(output_dir=str(tmp_path), teacher="none", progress=False))["kept"] == 3


def test_gold_solutions_are_the_answers_where_no_teacher_is(text_run):
    report = label_answers(AnswerArguments(output_dir=str(text_run), teacher="none", max_problems=5, progress=False))
    solutions = read_solutions(text_run / "label" / "answers.jsonl")
    assert report["problems"] == len(solutions) == 5
    assert solutions[0].steps[-1] == "The answer is: 79"


def test_a_failing_call_is_a_value_and_results_keep_their_order():
    async def call(number: int) -> int:
        if number == 2:
            raise TimeoutError("late")
        return number * 10

    results = ask(ScriptedTeacher(), call, [1, 2, 3], concurrency=2, progress=False, what="x")
    assert (results[0], results[2]) == (10, 30)
    assert isinstance(results[1], TimeoutError)
    assert ask(ScriptedTeacher(), call, [], concurrency=2, progress=False, what="x") == []


def test_symbolic_lists_put_intact_above_defective_and_split_by_root(symbolic_run):
    report = label_ranks(
        RankArguments(output_dir=str(symbolic_run), lists_per_root=2, heldout_fraction=0.3, progress=False)
    )
    train = read_ranked(symbolic_run / "label" / "ranked.jsonl")
    held = read_ranked(symbolic_run / "label" / "ranked_heldout.jsonl")
    assert report["agreement"] == 1.0
    assert (report["lists"], report["heldout_lists"]) == (len(train), len(held))
    assert held
    assert set(report["defects"]) == {"missing_premise", "contradiction", "ambiguous_referent", "redundant_clause"}
    root_of = {p.instruction: p.root for p in read_problems(symbolic_run / "evolve" / "pool.jsonl")}
    roots = [
        {root_of[text] for record in part for tier in record.tiers for text in tier if text in root_of}
        for part in (train, held)
    ]
    assert roots[0].isdisjoint(roots[1])
    for record in [*train, *held]:
        texts = [text for tier in record.tiers for text in tier]
        assert 2 <= len(texts) <= 6
        assert len(set(texts)) == len(texts)
        said = record.aspects
        assert said is not None
        sound = [
            min(said[name][i] for name in ("definition", "precision", "integrity")) == 1 for i in range(len(texts))
        ]
        assert sound == sorted(sound, reverse=True)  # aspects are in the tiers' order: sound ones first,
        steps = [number for number, is_sound in zip(said["difficulty"], sound, strict=True) if is_sound]
        assert steps == sorted(steps, reverse=True)  # harder ones before easier ones
    # The reader shares nothing with the ranking: problems it cannot answer never stand in the best tier.
    unreadable = [text for record in train for text in record.tiers[0] if read(text) is None]
    assert unreadable == []


def test_a_teacher_s_noise_counts_as_defective(tmp_path):
    evolve_files(EvolveArguments(output_dir=str(tmp_path), num_seeds=30, teacher_noise=0.5, progress=False))
    pool = read_problems(tmp_path / "evolve" / "pool.jsonl")
    noisy = [problem for problem in pool if problem.meta.get("defect")]
    assert noisy
    assert label_ranks(RankArguments(output_dir=str(tmp_path), progress=False))["agreement"] > 0.95
    report = label_steps(StepArguments(output_dir=str(tmp_path), progress=False))
    assert report["by_source"]["ill_posed"] == len(noisy)


def test_text_lists_put_the_original_above_its_tied_defects(text_run):
    report = label_ranks(
        RankArguments(output_dir=str(text_run), teacher="none", list_size=4, heldout_fraction=0.3, progress=False)
    )
    records = read_ranked(text_run / "label" / "ranked.jsonl") + read_ranked(
        text_run / "label" / "ranked_heldout.jsonl"
    )
    originals = {problem.instruction for problem in read_problems(text_run / "evolve" / "pool.jsonl")}
    assert len(records) == len(originals)
    assert report["agreement"] is None
    for record in records:
        (best,), worse = record.tiers
        assert best in originals
        assert originals.isdisjoint(worse)
        assert 1 <= len(worse) <= 3


def test_each_text_defect_does_what_it_says_and_nothing_else():
    def made(kind):
        drawn = {TEXT_DEFECTS[kind](PROBLEM, OTHER, random.Random(i)) for i in range(30)}
        assert None not in drawn
        return drawn

    pieces = sentences(PROBLEM.instruction)
    assert (
        made("missing_premise")
        == {  # 48 and 7 are the only needed numbers
            "".join([*pieces[1:]]),
            "".join([pieces[0], *pieces[2:]]),
        }
    )
    assert made("spliced") == {"".join(pieces[:3]) + "How many legs do they have?"}
    for text in made("contradiction"):
        again = [piece for piece in sentences(text) if piece.strip() not in [p.strip() for p in pieces]]
        assert len(sentences(text)) == len(pieces) + 1
        assert len(again) == 1
        assert any(char.isdigit() for char in again[0])


def test_a_sentence_whose_number_is_said_again_is_not_missing_when_removed():
    row = {
        "question": "Ann has 5 pens. Her 5 pens are red. Bo has 3 pens. How many pens are there?",
        "answer": "5+3=<<5+3=8>>8\n#### 8",
    }
    drawn = {TEXT_DEFECTS["missing_premise"](gsm8k_row(row)[0], OTHER, random.Random(i)) for i in range(20)}
    assert drawn == {"Ann has 5 pens. Her 5 pens are red. How many pens are there?"}


def test_sentences_keep_every_character_and_respect_titles_and_decimals():
    text = 'Mr. Po pays $3.50.  "Keep it!" he says.\nDr. Wu has 2 cats? Yes.'
    assert "".join(sentences(text)) == text
    assert [piece.strip() for piece in sentences(text)] == [
        "Mr. Po pays $3.50.",
        '"Keep it!" he says.',
        "Dr. Wu has 2 cats?",
        "Yes.",
    ]


def test_problems_of_another_shape_get_no_defect():
    shapeless = Problem(id="s", root="s", instruction="Compute 3 + 4.", answer="7", meta={"equations": []})
    assert [defect(shapeless, OTHER, random.Random(0)) for defect in TEXT_DEFECTS.values()] == [None] * 3


def test_steps_are_checked_exactly_against_the_marked_equations():
    steps = {
        "Step 1: In May it is 48/2 = 24.": 1,  # true and a value of the reference
        "Step 1: In May it is 48 / 2 = 25.": -1,  # false
        "Step 2: So 48 - 24 = 24 are left, 24 + 48 = 73.": -1,  # one of two is false
        "Step 3: Then 72 + 8 = 80.": 0,  # true, unknown value
        "Let us think about it.": 0,
        "The answer is: 79": 1,
        "The answer is: 78": -1,
        "The answer is: a few": -1,
    }
    assert {step: check_steps(PROBLEM, [step])[0] for step in steps} == steps


def test_an_answer_line_that_restates_the_last_wrong_value_is_neutral():
    assert check_steps(PROBLEM, ["72 + 8 = 80", "The answer is: 80"]) == (0, 0)
    assert check_steps(PROBLEM, ["72 + 8 = 80", "The answer is: 81"]) == (0, -1)
    assert check_steps(PROBLEM, ["72 + 7 = 80", "The answer is: 79"]) == (-1, 1)


def test_steps_of_a_problem_without_marks_cannot_be_checked():
    with pytest.raises(DataError, match="has no marked equations"):
        check_steps(Problem(id="p", root="p", instruction="How?", answer="3"), ["1 + 2 = 3"])


@pytest.mark.parametrize("kind", INJECTIONS)
def test_an_injected_error_stands_where_it_says_and_all_else_follows(kind):
    right = gold_solution(PROBLEM).steps
    made = [injected for i in range(60) if (injected := inject(PROBLEM, random.Random(i), kind)) is not None]
    assert {injected.place for injected in made} >= ({0, 1, 2} if kind == "slip" else {0, 1})
    for injected in made:
        assert len(injected.steps) == len(injected.labels) == len(right)
        assert injected.steps[: injected.place] == right[: injected.place]
        assert injected.steps[injected.place] != right[injected.place]
        assert injected.labels[injected.place] == -1
        assert set(injected.labels[: injected.place]) <= {1}
        later = injected.labels[injected.place + 1 :]
        assert set(later) == ({1} if kind == "slip" else {0})
        assert (injected.steps[-1] == right[-1]) == (kind == "slip")
        truth = [all(e.holds for e in find_equations(step)) for step in injected.steps]
        assert truth == [index != injected.place or kind == "operand" for index in range(len(right))]


def test_a_carried_error_is_recomputed_downstream():
    made = {inject(PROBLEM, random.Random(i), "carried") for i in range(200)}
    steps = next(m.steps for m in made if m and "48/2 = 25" in m.steps[0])
    assert steps == (  # 48 + 25 = 73, 73 + 7 = 80
        "Step 1: Natalia sold 48/2 = 25 clips in May.",
        "Step 2: In April and May that is 48+25 = 73 clips.",
        "Step 3: With Mr. Po's it is 73+7 = 80.",
        "The answer is: 80",
    )


def test_an_unknown_injection_is_refused():
    with pytest.raises(ValueError, match="unknown injection 'typo'; known: slip, carried, operand"):
        inject(PROBLEM, random.Random(0), "typo")


def test_text_steps_are_labelled_and_split_by_problem(text_run):
    write_jsonl(
        text_run / "samples.jsonl",
        [
            {"problem_id": read_problems(text_run / "evolve" / "pool.jsonl")[0].id, "text": text}
            for text in ("Step 1: 48/2 = 24\nStep 2: 24+48 = 73\nThe answer is: 73", "   ")
        ],
    )
    report = label_steps(
        StepArguments(
            output_dir=str(text_run),
            teacher="none",
            samples=str(text_run / "samples.jsonl"),
            corruptions_per_problem=3,
            heldout_fraction=0.3,
            progress=False,
        )
    )
    parts = [read_labeled(text_run / "label" / name) for name in ("stepped.jsonl", "stepped_heldout.jsonl")]
    assert [len(part) for part in parts] == [report["solutions"], report["heldout_solutions"]]
    assert all(parts)
    assert {r.instruction for r in parts[0]}.isdisjoint(r.instruction for r in parts[1])
    assert report["by_source"] == {"carried": 8, "operand": 8, "reference": 8, "sample": 1, "slip": 8}
    assert report["left_out"] == {"sample without text": 1}
    assert report["agreement"] is None
    sample = next(r for part in parts for r in part if r.steps[0] == "Step 1: 48/2 = 24")
    assert (sample.labels, sample.outcome) == ((1, -1, 0), False)
    counts = Counter(str(label) for part in parts for record in part for label in record.labels or ())
    assert counts == report["by_label"]


def test_symbolic_steps_cover_all_corruptions_and_samples_of_a_model(symbolic_run):
    pool = read_problems(symbolic_run / "evolve" / "pool.jsonl")
    solution = ask(SymbolicTeacher(), SymbolicTeacher().answer, pool[:1], concurrency=1, progress=False, what="x")[0]
    write_jsonl(
        symbolic_run / "samples.jsonl",
        [{"problem_id": pool[0].id, "text": "\n" + solution.text + "\n"}],  # type: ignore[union-attr]
    )
    report = label_steps(
        StepArguments(output_dir=str(symbolic_run), samples=str(symbolic_run / "samples.jsonl"), progress=False, seed=1)
    )
    kinds = {"answer", "arithmetic", "compensating", "operand", "operation", "reference", "sample", "skipped"}
    assert set(report["by_source"]) == kinds
    assert report["by_source"]["reference"] == len(pool)
    assert all(report["agreement"][kind] == 1.0 for kind in kinds - {"sample", "skipped"})
    records = read_labeled(symbolic_run / "label" / "stepped.jsonl")
    assert any(r.outcome and -1 in (r.labels or ()) for r in records), "no right answer by a wrong path"
    assert all(len(split_steps("\n".join(r.steps))) == len(r.steps) for r in records)


def test_a_reference_with_a_false_equation_is_left_out(tmp_path):
    false = gsm8k_row({"question": "How much?", "answer": "It is 2*8 = 24.\nSo 24-8 = <<24-8=16>>16.\n#### 16"})[0]
    write_jsonl(tmp_path / "evolve" / "pool.jsonl", [false, PROBLEM])
    arguments = StepArguments(output_dir=str(tmp_path), teacher="none", corruptions_per_problem=0, progress=False)
    report = label_steps(arguments)
    assert report["left_out"] == {"reference with a false equation": 1}
    assert report["by_source"] == {"reference": 1}


def test_samples_of_unknown_problems_and_bad_rows_are_named(text_run):
    path = text_run / "samples.jsonl"
    arguments = StepArguments(output_dir=str(text_run), teacher="none", samples=str(path), progress=False)
    write_jsonl(path, [{"problem_id": "nobody", "text": "x"}])
    with pytest.raises(DataError, match=r"row 1: problem_id 'nobody' must name one of the 8 problems"):
        label_steps(arguments)
    write_jsonl(path, [{"problem_id": "nobody"}])
    with pytest.raises(DataError, match=r"line 1: missing column \['text'\]"):
        label_steps(arguments)


@pytest.mark.parametrize("stage", [label_answers, label_ranks, label_steps])
def test_an_empty_or_missing_pool_is_an_error(tmp_path, stage):
    kind = {label_answers: AnswerArguments, label_ranks: RankArguments, label_steps: StepArguments}[stage]
    with pytest.raises(DataError, match=r"pool\.jsonl: no such file"):
        stage(kind(output_dir=str(tmp_path)))
    (tmp_path / "evolve").mkdir()
    (tmp_path / "evolve" / "pool.jsonl").write_text("")
    with pytest.raises(DataError, match="the file has no rows"):
        stage(kind(output_dir=str(tmp_path)))


def test_stages_are_the_same_at_any_concurrency(symbolic_run):
    files = []
    for concurrency in (1, 64):
        common = {"output_dir": str(symbolic_run), "concurrency": concurrency, "progress": False}
        label_ranks(RankArguments(**common))
        label_steps(StepArguments(**common))
        files.append([(symbolic_run / "label" / n).read_bytes() for n in ("ranked.jsonl", "stepped.jsonl")])
    assert files[0] == files[1]


def test_the_held_out_share_is_close_to_the_fraction_asked_for():
    held = sum(is_held_out(f"root{i}", 0.2, seed=0) for i in range(5000))
    assert 900 < held < 1100  # 1000 expected, standard deviation 28


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RankArguments(output_dir="x", list_size=1), "list_size must be >= 2"),
        (lambda: RankArguments(output_dir="x", heldout_fraction=1.0), "at least 0 and below 1, got 1.0"),
        (lambda: StepArguments(output_dir="x", corruptions_per_problem=-1), "must be >= 0, got -1"),
        (lambda: AnswerArguments(output_dir="x", keep="some"), "'all' or 'known_answer', got 'some'"),  # type: ignore[arg-type]
    ],
)
def test_label_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gsm8k_errors_and_defects_are_made_for_most_problems(data_folder):
    from rleif.sources import read_gsm8k

    problems = [problem for problem, _ in read_gsm8k(data_folder / "gsm8k" / "train.jsonl")][:300]
    rng = random.Random(0)
    slips = [inject(problem, rng, "slip") for problem in problems]
    carried = [inject(problem, rng, "carried") for problem in problems]
    assert sum(injected is not None for injected in slips) > 0.85 * len(problems)
    assert sum(injected is not None for injected in carried) > 0.6 * len(problems)
    for problem, injected in zip(problems, carried, strict=True):
        if injected is None or -1 in check_steps(problem, gold_solution(problem).steps):
            continue
        # The checker, which knows nothing of the injection, finds its place.
        assert check_steps(problem, injected.steps).index(-1) == injected.place
