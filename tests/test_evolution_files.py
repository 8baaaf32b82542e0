import json

import pytest

from rleif.evolution import EvolveArguments, evolve_files
from rleif.evolution.files import draw_problems
from rleif.records import DataError, read_problems, read_rejections, read_rows, write_jsonl


def symbolic(folder, **changes) -> EvolveArguments:
    settings = {"num_seeds": 60, "num_heldout": 20, "progress": False} | changes
    return EvolveArguments(output_dir=str(folder), **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, evolve_files(symbolic(folder))


def test_the_symbolic_stage_writes_its_files_and_their_counts_add_up(run):
    folder, report = run
    pool = read_problems(folder / "evolve" / "pool.jsonl")
    rejected = read_rejections(folder / "evolve" / "rejected.jsonl")
    assert len(read_problems(folder / "seeds.jsonl")) == 60
    assert len(read_problems(folder / "heldout.jsonl")) == 20
    assert json.loads((folder / "evolve" / "report.json").read_text()) == report
    assert len(pool) + len(rejected) == 60 + report["children"]["tried"]
    assert len(pool) == report["seeds"]["kept"] + report["children"]["kept"]
    assert report["children"]["tried"] == report["seeds"]["kept"] * 5


def test_no_problem_of_the_pool_shares_a_program_with_a_held_out_one(run):
    folder, _ = run
    held = [problem.meta["program_key"] for problem in read_problems(folder / "heldout.jsonl")]
    pool = {problem.meta["program_key"] for problem in read_problems(folder / "evolve" / "pool.jsonl")}
    assert len(set(held)) == len(held)
    assert pool.isdisjoint(held)


def test_children_on_a_held_out_program_are_rejected_as_contaminated(tmp_path):
    # One-step problems are few, so that collisions are certain.
    report = evolve_files(symbolic(tmp_path, num_seeds=300, max_steps=1, num_heldout=200, heldout_max_steps=1))
    rejected = [r for r in read_rejections(tmp_path / "evolve" / "rejected.jsonl") if r.rule == "program"]
    assert rejected
    held = {problem.meta["program_key"]: problem.id for problem in read_problems(tmp_path / "heldout.jsonl")}
    for rejection in rejected:
        name = held[rejection.problem.meta["program_key"]]
        assert rejection.evidence == f"same program as held-out problem {name}"
    assert report["seeds"]["kept"] + sum(report["seeds"]["rejected"].values()) == 300


def test_no_such_evolution_is_recorded_for_one_step_problems(run):
    folder, report = run
    assert report["children"]["rejected"]["eliminated/no_such_evolution"] > 0
    rules = [r for r in read_rejections(folder / "evolve" / "rejected.jsonl") if r.rule == "no_such_evolution"]
    assert all(rejection.evidence and rejection.problem.parent for rejection in rules)


def test_mean_steps_rise_with_every_upward_and_fall_with_every_downward_round(run):
    means = {(row["direction"], row["round"]): row["mean_steps"] for row in run[1]["steps"]}
    assert means["up", 3] > means["up", 2] > means["up", 1] > means["seed", 0] > means["down", 1] > means["down", 2]


def test_the_stage_is_the_same_at_any_concurrency(run, tmp_path):
    folder, _ = run
    evolve_files(symbolic(tmp_path, concurrency=1))
    for name in ("seeds.jsonl", "heldout.jsonl", "evolve/pool.jsonl", "evolve/rejected.jsonl", "evolve/report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_more_seeds_leave_the_lineages_of_the_others_as_they_are(run, tmp_path):
    folder, _ = run
    evolve_files(symbolic(tmp_path, num_seeds=70))
    few = read_problems(folder / "evolve" / "pool.jsonl")
    more = read_problems(tmp_path / "evolve" / "pool.jsonl")
    assert more[: len(few)] == few


def test_without_a_teacher_the_pool_is_the_screened_seeds(tmp_path):
    rows = [{"instruction": f"{name} has 3 pens and buys 2 more. How many?", "answer": "5"} for name in "ABC"]
    rows.append({"instruction": "a HAS 3 pens, and buys 2 more. How many", "answer": "5"})
    rows.append({"instruction": "The quick brown fox jumps over the lazy dog. How often?", "answer": "1"})
    write_jsonl(tmp_path / "in.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [{"question": "Say: the quick brown fox jumps over the lazy dog!"}])
    arguments = EvolveArguments(
        output_dir=str(tmp_path / "out"),
        seeds=str(tmp_path / "in.jsonl"),
        teacher="none",
        test_files=[f"mine={tmp_path / 'test.jsonl'}"],
        progress=False,
    )
    report = evolve_files(arguments)
    pool = read_problems(tmp_path / "out" / "evolve" / "pool.jsonl")
    assert [problem.instruction[0] for problem in pool] == ["A", "B", "C"]
    assert report["seeds"]["rejected"] == {"contaminated/8gram": 1, "duplicate/exact": 1}
    assert report["children"] == {"tried": 0, "kept": 0, "rejected": {}}
    assert (tmp_path / "out" / "heldout.jsonl").read_text() == ""


def test_held_out_problems_of_a_file_leave_the_seeds_whatever_their_order(tmp_path):
    rows = [{"instruction": f"Person {i} has {i} pens. How many is that?"} for i in range(30)]
    held = []
    for order in (rows, rows[::-1]):
        write_jsonl(tmp_path / "in.jsonl", order)
        evolve_files(
            EvolveArguments(output_dir=str(tmp_path), seeds=str(tmp_path / "in.jsonl"), teacher="none", num_heldout=10)
        )
        held.append({problem.id for problem in read_problems(tmp_path / "heldout.jsonl")})
        pool = {problem.id for problem in read_problems(tmp_path / "evolve" / "pool.jsonl")}
        assert (len(held[-1]), len(pool), held[-1] & pool) == (10, 20, set())
        assert {problem.id for problem in read_problems(tmp_path / "seeds.jsonl")} == pool
    assert held[0] == held[1]


def test_a_held_out_file_is_taken_as_it_is(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": f"Person {i} has {i} pens. How many?"} for i in range(5)])
    write_jsonl(tmp_path / "held.jsonl", [{"question": "Is 3 + 4 seven?", "answer": "3+4=<<3+4=7>>7\n#### 7"}] * 1)
    evolve_files(
        EvolveArguments(
            output_dir=str(tmp_path),
            seeds=str(tmp_path / "in.jsonl"),
            heldout=str(tmp_path / "held.jsonl"),
            teacher="none",
        )
    )
    (held,) = read_problems(tmp_path / "heldout.jsonl")
    assert (held.instruction, held.answer) == ("Is 3 + 4 seven?", "7")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_seeds": None}, "give seeds .* or num_seeds"),
        ({"num_seeds": 0}, "num_seeds must be >= 1, got 0"),
        ({"teacher": "oracle"}, "unknown teacher 'oracle'; known: symbolic, none"),
        ({"schedule": "wizardmath_v2"}, "unknown schedule 'wizardmath_v2'; known: wizardmath_v1, wizardmath_v3"),
        ({"dedup": "minhash"}, "unknown dedup 'minhash'; known: none, exact, mask_digits"),
        ({"numbers": "huge"}, "unknown numbers 'huge'; known: full, small, tiny"),
        ({"relations": ["plus"]}, "unknown relations plus; known: given, groups"),
        ({"max_steps": 0}, "1 <= min_steps <= max_steps needed, got 1 and 0"),
        ({"test_files": ["gsm8k/test.jsonl"]}, "takes name=path, got 'gsm8k/test.jsonl'"),
        ({"concurrency": 0}, "concurrency must be >= 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        symbolic(tmp_path, **settings)


def test_a_bad_seed_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "seeds.jsonl"
    arguments = EvolveArguments(output_dir=str(tmp_path), seeds=str(path), teacher="none")
    path.write_text('{"instruction": "How many?"}\n{"instruction": "How ma')
    with pytest.raises(DataError, match=r"seeds\.jsonl, line 2: not valid JSON"):
        evolve_files(arguments)
    path.write_text('{"instruction": "How many?"}\n{"text": "x"}\n')
    with pytest.raises(DataError, match=r"line 2: missing column \['instruction'\]; found \['text'\]"):
        evolve_files(arguments)
    path.write_text('{"instruction": "How many?"}\n{"instruction": null}\n')
    with pytest.raises(DataError, match=r"seeds\.jsonl, line 2: 'instruction' is None; expected a text"):
        evolve_files(arguments)
    path.write_text("")
    with pytest.raises(DataError, match="the file has no rows"):
        evolve_files(arguments)


def test_a_world_with_too_few_distinct_problems_says_so(monkeypatch):
    same = draw_problems(1, (1, 1), seed=0, name="x")[0]
    monkeypatch.setattr("rleif.teachers.symbolic.sample_problem", lambda rng, steps, sizes: same)
    with pytest.raises(ValueError, match="found 1 distinct problems of 1 to 1 steps, 2 asked for"):
        draw_problems(2, (1, 1), seed=0, name="x", distinct=True)


def test_report_rows_are_one_json_object(run):
    assert len(list(read_rows(run[0] / "evolve" / "report.json"))) == 1
