"""Evaluation: every formula against a number worked by hand, the stage with a scripted engine, files without models."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rleif.evaluate import (
    EvalResult,
    Sample,
    bootstrap,
    compare,
    compare_samples,
    evaluate_model,
    mcnemar,
    metrics_from_samples,
    pass_at_k,
    read_samples,
    vote,
    wilson,
)
from rleif.grading import Grade
from rleif.records import Completion, DataError, Problem, Sampling


class TestFormulas:
    @pytest.mark.parametrize(
        ("n", "c", "k", "expected"),
        [
            (4, 1, 2, 0.5),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
            (5, 2, 3, 0.9),  # 1 - C(3,3)/C(5,3) = 1 - 1/10
            (8, 3, 1, 0.375),  # pass@1 is the share
            (4, 0, 4, 0.0),
            (4, 3, 2, 1.0),  # two draws cannot both be the one wrong sample
        ],
    )
    def test_pass_at_k_is_the_hypergeometric_probability(self, n: int, c: int, k: int, expected: float):
        assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)

    def test_pass_at_k_is_the_mean_over_all_subsets(self):
        from itertools import combinations

        samples = [True, False, False, True, False, False]
        subsets = list(combinations(samples, 3))
        assert pass_at_k(6, 2, 3) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)

    def test_pass_at_k_of_more_draws_than_samples_is_refused(self):
        with pytest.raises(ValueError, match="pass@9 of 8"):
            pass_at_k(8, 3, 9)

    def test_majority_vote_elects_the_most_frequent_answer(self):
        assert vote(["5", "7", "7"]) == 1

    def test_a_tied_vote_goes_to_the_answer_given_first(self):
        assert vote(["5", "7", "7", "5"]) == 0
        assert vote(["7", "5", "5", "7"]) == 0

    def test_a_sample_without_answer_does_not_vote(self):
        assert vote([None, None, "7"]) == 2
        assert vote([None, None]) is None
        assert vote([]) is None

    def test_a_weighted_vote_sums_the_weights_of_equal_answers(self):
        # "7": 0.3 + 0.3 = 0.6 beats "5": 0.5; with 0.7 for "5" it does not.
        assert vote(["5", "7", "7"], [0.5, 0.3, 0.3]) == 1
        assert vote(["5", "7", "7"], [0.7, 0.3, 0.3]) == 0

    def test_wilson_interval_agrees_with_published_values(self):
        # 8 of 10: centre (0.8 + 3.8415/20) / (1 + 3.8415/10) = 0.7167, half width 0.2266
        assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
        assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
        assert wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)

    @pytest.mark.parametrize(
        ("only_before", "only_after", "expected"),
        [
            (1, 5, 14 / 64),  # 2 (C(6,0) + C(6,1)) / 2^6 = 2 * 7 / 64
            (5, 1, 14 / 64),
            (2, 10, 158 / 4096),  # 2 (1 + 12 + 66) / 2^12
            (0, 10, 2 / 1024),
            (3, 3, 1.0),
            (0, 0, 1.0),
        ],
    )
    def test_mcnemar_is_a_two_sided_sign_test_on_the_discordant_problems(self, only_before, only_after, expected):
        assert mcnemar(only_before, only_after) == pytest.approx(expected, rel=1e-12)

    def test_bootstrap_of_a_share_is_the_binomial_interval(self):
        # The resampled sum of 50 ones and 50 zeros is Binomial(100, 1/2), whose 2.5% and 97.5% quantiles are 40 and 60.
        assert bootstrap([0.0] * 50 + [1.0] * 50, seed=1) == pytest.approx((0.40, 0.60), abs=0.0101)

    def test_bootstrap_of_a_constant_has_no_width_and_a_seed_fixes_it(self):
        assert bootstrap([0.25] * 30, seed=0) == (0.25, 0.25)
        values = [math.sqrt(i) for i in range(40)]
        assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)

    def test_nothing_has_no_interval(self):
        with pytest.raises(ValueError, match="at least one problem"):
            bootstrap([], seed=0)
        with pytest.raises(ValueError, match="at least one problem"):
            wilson(0, 0)


def sample(problem: str, index: int, answer: str | None, gold: str = "7", **changes) -> Sample:
    made = Sample(
        problem_id=problem,
        mode="sampled",
        index=index,
        text="",
        finish_reason="stop",
        tokens=10,
        grade=Grade.no_answer if answer is None else Grade.correct if answer in (gold, f"{gold}.0") else Grade.wrong,
        answer=answer,
        mark=None if answer is None else "answer_is",
        gold=gold,
    )
    return replace(made, **changes)


def greedy(problem: str, correct: bool, **changes) -> Sample:
    return sample(problem, 0, "7" if correct else "8", mode="greedy", **changes)


class TestMetrics:
    def test_every_metric_of_two_problems_worked_by_hand(self):
        samples = [
            greedy("a", True, steps=1),
            greedy("b", False, steps=3),
            # a: 7, 8, 8, 7.0: half right; the vote is 2 : 2, and 7 came first
            sample("a", 0, "7", steps=1, step_scores=(0.9, 0.2)),
            sample("a", 1, "8", steps=1, step_scores=(0.5, 0.5)),
            sample("a", 2, "8", steps=1, step_scores=(0.1,)),
            sample("a", 3, "7.0", steps=1, step_scores=(0.3, 0.9)),
            # b: one right of four; the majority is wrong, its summed scores 0.2 + 0.1 lose against 0.8
            sample("b", 0, "9", steps=3, step_scores=(0.2,)),
            sample("b", 1, "9", steps=3, step_scores=(0.1,)),
            sample("b", 2, "7", steps=3, step_scores=(0.8, 0.9)),
            sample("b", 3, None, steps=3, step_scores=(), finish_reason="length"),
        ]
        metrics = metrics_from_samples(samples, resamples=100)
        assert metrics["n"] == 2
        assert metrics["pass1_greedy"] == 0.5
        assert metrics["pass1_sampled"] == pytest.approx((2 / 4 + 1 / 4) / 2)
        # pass@2: a 1 - C(2,2)/C(4,2) = 5/6, b 1 - C(3,2)/C(4,2) = 1/2
        assert metrics["pass_at_k"] == pytest.approx({"1": 3 / 8, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0})
        assert metrics["maj4"] == 0.5  # a by the tie rule
        assert metrics["prm_best_of_4"] == 0.5  # minima: a 0.2, 0.5, 0.1, 0.3 elects "8"; b 0.2, 0.1, 0.8, 0 elects "7"
        assert metrics["prm_weighted_4"] == 0.5  # a: 0.2 + 0.3 for 7 against 0.5 + 0.1 for 8; b: 0.8 against 0.3
        assert metrics["truncation_rate"] == pytest.approx(1 / 10)
        assert metrics["by_difficulty"] == {
            "1": {"n": 1, "pass1_greedy": 1.0, "pass1_sampled": 0.5},
            "3": {"n": 1, "pass1_greedy": 0.0, "pass1_sampled": 0.25},
        }
        assert metrics["grades"]["sampled"] == {"correct": 3, "wrong": 4, "no_answer": 1}
        assert metrics["intervals"]["pass1_greedy"] == pytest.approx(wilson(1, 2))
        assert metrics["interval_methods"]["pass1_greedy"] == "wilson 95%"
        assert "bootstrap" in metrics["interval_methods"]["pass1_sampled"]

    def test_another_aggregation_elects_another_sample(self):
        samples = [
            sample("a", 0, "7", step_scores=(0.9, 0.2)),  # min 0.2, last 0.2, mean 0.55, product 0.18
            sample("a", 1, "8", step_scores=(0.4, 0.5)),  # min 0.4, last 0.5, mean 0.45, product 0.20
        ]
        for how, elected in (("min", 0.0), ("mean", 1.0), ("last", 0.0), ("product", 0.0)):
            assert metrics_from_samples(samples, aggregation=how, resamples=10)["prm_best_of_2"] == elected

    def test_what_was_not_measured_is_left_out(self):
        metrics = metrics_from_samples([greedy("a", True)])
        assert "pass1_sampled" not in metrics
        assert not [name for name in metrics if name.startswith(("maj", "prm_"))]
        assert "prm_best_of_2" not in metrics_from_samples([sample("a", 0, "7"), sample("a", 1, "7")])

    def test_votes_count_equal_values_written_differently_as_one_answer(self):
        samples = [sample("a", 0, "8"), sample("a", 1, "7"), sample("a", 2, "$7.00", grade=Grade.correct)]
        assert metrics_from_samples(samples, resamples=10)["maj3"] == 1.0

    def test_a_metrics_table_does_not_depend_on_the_order_of_the_rows(self):
        rng = random.Random(5)
        samples = [sample(f"p{i}", k, rng.choice(["7", "8", None])) for i in range(20) for k in range(4)]
        shuffled = rng.sample(samples, len(samples))
        first, second = metrics_from_samples(samples, resamples=10), metrics_from_samples(shuffled, resamples=10)
        for name in ("pass1_sampled", "pass_at_k", "maj4", "truncation_rate"):
            assert first[name] == pytest.approx(second[name])

    def test_a_cut_file_is_refused_instead_of_averaged(self):
        with pytest.raises(DataError, match="cut off"):
            metrics_from_samples([sample("a", 0, "7"), sample("a", 1, "7"), sample("b", 0, "7")])
        with pytest.raises(DataError, match="only greedy or only sampled"):
            metrics_from_samples([greedy("a", True), sample("b", 0, "7")])
        with pytest.raises(ValueError, match="no samples"):
            metrics_from_samples([])


class TestComparison:
    def test_a_paired_comparison_worked_by_hand(self):
        before = [greedy(f"p{i}", i < 5) for i in range(10)]  # 0..4
        after = [greedy(f"p{i}", 1 <= i < 9) for i in range(10)]  # 1..8: loses 0, gains 5..8
        result = compare_samples(before, after)
        assert (result.n, result.only_before, result.only_after) == (10, 1, 4)
        assert result.mcnemar_p == pytest.approx(12 / 32)  # 2 (1 + 5) / 2^5
        assert result.sampled is None
        assert result.greedy is not None
        assert (result.greedy.before, result.greedy.after) == (0.5, 0.8)
        assert result.greedy.difference == pytest.approx(0.3)

    def test_the_interval_is_paired(self):
        # Every problem gains exactly one sample of four: the difference is 0.25 without any uncertainty, although the
        # problems themselves differ widely.
        before = [sample(f"p{i}", k, "7" if k < i % 4 else "8") for i in range(40) for k in range(4)]
        after = [sample(f"p{i}", k, "7" if k < i % 4 + 1 else "8") for i in range(40) for k in range(4)]
        result = compare_samples(before, after, resamples=500).sampled
        assert result is not None
        assert result.interval == pytest.approx((0.25, 0.25))

    def test_a_model_is_not_different_from_itself(self):
        rows = [greedy(f"p{i}", i % 3 == 0) for i in range(30)]
        result = compare_samples(rows, rows)
        assert result.mcnemar_p == 1.0
        assert result.greedy is not None
        assert result.greedy.interval == (0.0, 0.0)

    def test_different_problems_cannot_be_paired(self):
        with pytest.raises(ValueError, match="1 only before, 2 only after, 1 common"):
            compare_samples([greedy("a", True), greedy("b", True)], [greedy(name, True) for name in "acd"])


@dataclass
class ScriptedEngine:
    """Completes by a script: text per problem number and sample; the last byte of the prompt's instruction names it."""

    script: dict[str, list[str]]

    def __call__(self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[int]):
        self.keys = [*getattr(self, "keys", []), *keys]
        return [[self._complete(prompt, k, sampling) for k in range(sampling.num_generations)] for prompt in prompts]

    def _complete(self, prompt: Sequence[int], k: int, sampling: Sampling) -> Completion:
        name = bytes(prompt).decode().split("### Instruction:\n")[1].split("\n")[0]
        text = self.script[name][0 if sampling.temperature == 0 else k + 1]
        ids = tuple(text.encode())[: sampling.max_new_tokens]
        cut = len(text.encode()) > sampling.max_new_tokens
        return Completion(
            prompt_ids=tuple(prompt),
            completion_ids=ids,
            logprobs=(0.0,) * len(ids),
            finish_reason="length" if cut else "stop",
            text=bytes(ids).decode(),
        )


@dataclass
class Scores:
    scores: tuple[float, ...]


class LengthPRM:
    """Scores a solution's lines: 0.9 for a line with `right`, else 0.1."""

    def score_steps(self, instructions: Sequence[str], solutions: Sequence[str]) -> list[Scores]:
        assert len(instructions) == len(solutions)
        return [Scores(tuple(0.9 if "right" in line else 0.1 for line in text.split("\n"))) for text in solutions]


PROBLEMS = [
    Problem(id="p1", instruction="three and four", answer="7", root="p1", meta={"steps": 1}),
    Problem(id="p2", instruction="half of one", answer="0.5", root="p2", meta={"steps": 2}),
]
SCRIPT = {
    "three and four": ["\nStep 1\nThe answer is: 7", "\nright 7\nThe answer is: 7 (right)", "\nThe answer is: 8"],
    "half of one": ["\nThe answer is: 1/3", "\nright\nThe answer is: 1/2 right", "\nno answer, only 0.5" + " x" * 40],
}


def encode(text: str) -> list[int]:
    return list(text.encode())


def run(**changes) -> EvalResult:
    arguments = {"num_samples": 2, "max_new_tokens": 60} | changes
    return evaluate_model(PROBLEMS, ScriptedEngine(SCRIPT), encode, **arguments)


class TestStage:
    def test_every_completion_is_recorded_with_grade_answer_and_score(self):
        result = run(prm=LengthPRM())
        assert [(s.problem_id, s.mode, s.index) for s in result.samples] == [
            ("p1", "greedy", 0), ("p2", "greedy", 0), ("p1", "sampled", 0), ("p1", "sampled", 1),
            ("p2", "sampled", 0), ("p2", "sampled", 1),
        ]  # fmt: skip
        grades = [str(s.grade) for s in result.samples]
        assert grades == ["correct", "wrong", "correct", "wrong", "correct", "no_answer"]
        cut = result.samples[-1]
        assert (cut.finish_reason, cut.answer, cut.tokens) == ("length", None, 60)
        assert result.samples[2].step_scores == (0.9, 0.9)
        assert result.samples[0].text.startswith("Step 1")  # the prefix of the format is no part of the solution
        assert result.metrics["pass1_greedy"] == 0.5
        assert result.metrics["prm_best_of_2"] == result.metrics["prm_weighted_2"] == 1.0
        assert result.metrics["truncation_rate"] == pytest.approx(1 / 6)

    def test_the_last_number_counts_only_where_it_was_asked_for(self):
        assert run(max_new_tokens=200).metrics["pass1_sampled"] == 0.5
        assert run(max_new_tokens=200, last_number=True).metrics["pass1_sampled"] == 0.75

    def test_metrics_come_back_from_the_written_file_without_a_model(self, tmp_path: Path):
        result = run(prm=LengthPRM())
        result.write(tmp_path / "eval")
        assert tuple(read_samples(tmp_path / "eval" / "samples.jsonl")) == result.samples
        again = EvalResult.read(tmp_path / "eval")
        assert again == result
        assert metrics_from_samples(again.samples) == result.metrics
        written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
        assert written["settings"]["max_new_tokens"] == 60
        assert "### Instruction" in written["settings"]["template"]
        comparison = compare(result, again)
        assert comparison.mcnemar_p == 1.0
        json.dumps(comparison.to_dict())

    def test_samples_of_a_problem_do_not_depend_on_the_other_problems(self):
        both, alone, moved = ScriptedEngine(SCRIPT), ScriptedEngine(SCRIPT), ScriptedEngine(SCRIPT)
        evaluate_model(PROBLEMS, both, encode, num_samples=2, seed=3)
        evaluate_model(PROBLEMS[1:], alone, encode, num_samples=2, seed=3)
        evaluate_model(PROBLEMS[1:], moved, encode, num_samples=2, seed=4)
        assert [both.keys[1], both.keys[3]] == alone.keys
        assert len({*both.keys, *moved.keys}) == 6

    def test_unusable_problems_are_refused_before_anything_is_sampled(self):
        engine = ScriptedEngine({})
        for problems, message in (
            ([], "no problems"),
            ([replace(PROBLEMS[0], answer=None)], "p1 has no answer"),
            ([PROBLEMS[0], PROBLEMS[0]], "p1 occurs twice"),
        ):
            with pytest.raises(ValueError, match=message):
                evaluate_model(problems, engine, encode)
        with pytest.raises(ValueError, match="nothing to do"):
            evaluate_model(PROBLEMS, engine, encode, num_samples=0, greedy=False)

    def test_a_score_that_is_not_a_number_names_the_problem(self):
        class Broken:
            def score_steps(self, instructions, solutions):
                return [Scores((math.nan,))] * len(solutions)

        with pytest.raises(ValueError, match="problem p1"):
            run(prm=Broken())

    def test_a_row_with_an_unknown_grade_names_the_file(self, tmp_path: Path):
        run().write(tmp_path)
        path = tmp_path / "samples.jsonl"
        path.write_text(path.read_text().replace('"wrong"', '"good"'))
        with pytest.raises(DataError, match=r"samples\.jsonl: 'good' is no grade"):
            read_samples(path)

    def test_evaluation_does_not_import_torch(self):
        code = "import sys, rleif.evaluate; assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
