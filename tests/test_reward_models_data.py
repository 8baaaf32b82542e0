"""Records, steps and measures of `reward_models`: everything that needs no network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import reward_models
from reward_models.evaluate import aggregate, first_error, first_error_f1, pair_accuracy, step_accuracy
from reward_models.records import (
    DataError,
    LabeledSolution,
    LocatedError,
    RankedInstructions,
    read_judged,
    read_labeled,
    read_located,
    read_ranked,
    write_jsonl,
)
from reward_models.steps import Step, join_steps, split_steps, step_end_tokens

ROOT = Path(__file__).resolve().parent.parent


def texts(text: str) -> list[str]:
    return [text[step.start : step.end] for step in split_steps(text)]


# The package


def test_importing_the_package_and_its_help_do_not_import_torch() -> None:
    code = (
        "import sys, runpy; import reward_models; reward_models.read_ranked; reward_models.first_error_f1\n"
        "sys.argv = ['reward_models', '--help']\n"
        "try: runpy.run_module('reward_models', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m reward_models {irm,prm,eval}" in done.stdout


def test_the_public_names_are_sorted_and_all_of_them_load() -> None:
    assert reward_models.__all__ == sorted(reward_models.__all__)
    for name in reward_models.__all__:
        assert getattr(reward_models, name).__name__ == name
    with pytest.raises(AttributeError, match="it exports DataError"):
        reward_models.NoSuchName  # noqa: B018


# Records and their files


def test_pairs_of_a_ranked_list_leave_ties_out() -> None:
    # C > A = E > B: 4 * 3 / 2 = 6 pairs, one of them tied.
    ranked = RankedInstructions(tiers=(("C",), ("A", "E"), ("B",)))
    assert list(ranked.pairs()) == [("C", "A"), ("C", "E"), ("C", "B"), ("A", "B"), ("E", "B")]


def test_records_survive_writing_and_reading(tmp_path: Path) -> None:
    ranked = [RankedInstructions(tiers=(("a\u2028b",), ("c", "d\r\n")), aspects={"definition": [1, 2]})]
    labeled = [
        LabeledSolution(instruction="q", steps=("s1", "s2"), labels=(1, -1), outcome=False),
        LabeledSolution(instruction="q", steps=("s1",), values=(0.25,)),
    ]
    assert write_jsonl(tmp_path / "ranked.jsonl", ranked) == 1
    assert write_jsonl(tmp_path / "labeled.jsonl", labeled) == 2
    assert read_ranked(tmp_path / "ranked.jsonl") == ranked
    assert read_labeled(tmp_path / "labeled.jsonl") == labeled
    assert read_judged(tmp_path / "labeled.jsonl") == labeled


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": (1, 1)}, "1 steps but 2 labels"),
        ({"values": (0.5, 1.0)}, "1 steps but 2 values"),
        ({"labels": (1,), "values": (1.0,)}, "exactly one of"),
        ({}, "exactly one of"),
        ({"labels": (2,)}, "holds 2; allowed is -1, 0 or 1"),
        ({"labels": (True,)}, "holds True"),
        ({"values": (1.5,)}, "a number from 0 to 1"),
        ({"values": (float("nan"),)}, "holds nan"),
        ({"values": ("0.5",)}, "holds '0.5'"),
    ],
)
def test_a_judgement_that_does_not_fit_its_steps_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabeledSolution(instruction="q", steps=("s",), **fields)


def test_blank_texts_and_empty_tiers_are_refused() -> None:
    with pytest.raises(DataError, match="no tier may be empty"):
        RankedInstructions(tiers=(("a",), ()))
    with pytest.raises(DataError, match="must be text, got '  '"):
        RankedInstructions(tiers=(("a",), ("  ",)))
    with pytest.raises(DataError, match="step 1 must be text"):
        LabeledSolution(instruction="q", steps=("s", ""), labels=(1, 1))
    with pytest.raises(DataError, match="at least one step"):
        LabeledSolution(instruction="q", steps=(), labels=())


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ('{"instruction": "q", "steps": ["s"], "lab', "line 2: not valid JSON"),
        (
            '{"instruction": "q", "labels": [1]}',
            r"line 2: missing column \['steps'\]; found \['instruction', 'labels'\]",
        ),
        ('{"instruction": "q", "steps": ["s"]}', "line 2: missing column: one of 'labels' and 'values'; found"),
        ('{"instruction": "q", "steps": ["s"], "labels": [1, 1]}', "line 2: 1 steps but 2 labels"),
        ('{"instruction": "q", "steps": "s", "labels": [1]}', "line 2: `steps` must be a list"),
        ("[1]", "line 2: expected a JSON object, found list"),
        ('\n{"instruction": "q", "steps": ["s"], "labels": [1]}', "line 2: a blank line before further rows"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, second_line: str, message: str) -> None:
    file = tmp_path / "stepped.jsonl"
    file.write_text('{"instruction": "q", "steps": ["s"], "labels": [1]}\n' + second_line)
    with pytest.raises(DataError, match=message) as caught:
        read_labeled(file)
    assert str(file) in str(caught.value)


def test_a_line_cut_inside_a_character_is_named_and_blank_lines_at_the_end_are_none(tmp_path: Path) -> None:
    row, file = '{"tiers": [["日本"]]}'.encode(), tmp_path / "ranked.jsonl"
    file.write_bytes(row + b"\r\n\n\n")
    assert len(read_ranked(file)) == 1
    file.write_bytes(row + b"\n" + row[:14])  # the first byte of three
    with pytest.raises(DataError, match=r"ranked\.jsonl, line 2: not valid JSON \(no UTF-8 at byte 14\).* cut off"):
        read_ranked(file)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match=r"no such file; expected JSON lines with columns \['tiers'\]"):
        read_ranked(tmp_path / "none.jsonl")
    for name in ("empty.jsonl", "empty.json"):
        with pytest.raises(DataError, match="the file has no rows"):
            read_judged(tmp_path / name)
    (tmp_path / "flat.jsonl").write_text('{"tiers": ["a", "b"]}')
    with pytest.raises(DataError, match="line 1: `tiers` must be a list of lists"):
        read_ranked(tmp_path / "flat.jsonl")


def test_places_of_errors_count_from_zero_so_a_one_based_file_is_caught(tmp_path: Path) -> None:
    row = {"problem": "q", "steps": ["s1", "s2"], "label": 1}
    (tmp_path / "rows.json").write_text(json.dumps([row, row | {"label": -1}]))
    assert [item.first_error for item in read_judged(tmp_path / "rows.json")] == [1, -1]
    # An error in the last of two steps is 2 when counted from one: beyond the end.
    (tmp_path / "one_based.jsonl").write_text(json.dumps(row | {"label": 2}))
    with pytest.raises(DataError, match=r"line 1: the first error is at 2 but the solution has 2 steps"):
        read_judged(tmp_path / "one_based.jsonl")


# Steps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Step 1: 2 + 3 = 5\nso 5.\nStep 2: 5 * 2 = 10\nThe answer is: 10",
         ["Step 1: 2 + 3 = 5\nso 5.", "Step 2: 5 * 2 = 10", "The answer is: 10"]),
        ("Let us think.\n\n**Step 1**: a\n\nmore\n## Step 2: b\n#### 7",
         ["Let us think.", "**Step 1**: a\n\nmore", "## Step 2: b", "#### 7"]),
        ("1. first\n  with 3. apples\n2. second\n1999. was a year\n3) third\nTherefore, the final answer is: 4",
         ["1. first\n  with 3. apples", "2. second\n1999. was a year", "3) third",
          "Therefore, the final answer is: 4"]),
        ("2 + 3 = 5\r\n5 * 2 = 10\r\n\r\nThe answer is: 10", ["2 + 3 = 5", "5 * 2 = 10", "The answer is: 10"]),
        ("line one\nline two\n\nsecond paragraph\n \nThe answer is: 1",
         ["line one\nline two", "second paragraph", "The answer is: 1"]),
        ("We get\n\\[\nx = 1\n\\]\nand then\n```python\na = 1\nb = 2\n```\ndone",
         ["We get", "\\[\nx = 1\n\\]", "and then", "```python\na = 1\nb = 2\n```", "done"]),
        ("first line\nsecond line\n\nthird line\nfourth line\n\nThe answer is: 1",
         ["first line", "second line", "third line", "fourth line", "The answer is: 1"]),
        ("a display\n\\[\nx = 1\n\\]\n\nof its own", ["a display\n\\[\nx = 1\n\\]", "of its own"]),
        ("an open \\[ bracket\nand more\nlines", ["an open \\[ bracket", "and more", "lines"]),
        ("one\u2028line with \x0c feed and \x85", ["one\u2028line with \x0c feed and"]),
        ("Stepping stones\nstep by step\n1.5 is a number", ["Stepping stones", "step by step", "1.5 is a number"]),
        ("", []),
        (" \n\t\r\n\u2028", []),
    ],
)  # fmt: skip
def test_a_text_is_split_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


PIECES = st.sampled_from(
    ["Step 1:", "Step 2:", "1. ", "2. ", "The answer is: 7", "#### 3", "\n", "\n\n", "\r\n", "\r", "\u2028", "\x85",
     "\\[", "\\]", "$$", "$\\frac{a}{b}$", "```", "  ", "\t", "é", "🧮", "日本", "ﬁ", "e\u0301", "\u200b", "x = 3;",
     "}"]
)  # fmt: skip
TEXT = st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=14).map("".join)


@settings(deadline=None, max_examples=150)
@given(TEXT)
def test_steps_are_in_order_and_leave_only_white_space_out(text: str) -> None:
    steps = split_steps(text)
    covered, position = "", 0
    for step in steps:
        assert position <= step.start < step.end <= len(text)
        assert not text[position : step.start].strip()
        assert text[step.start : step.end] == text[step.start : step.end].strip()
        covered += text[position : step.end]
        position = step.end
    assert covered + text[position:] == text
    assert not text[position:].strip()


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=6))
def test_joined_steps_are_found_at_their_spans(steps: list[str]) -> None:
    text, spans = join_steps(steps)
    assert text == "\n".join(steps)
    assert [text[span.start : span.end] for span in spans] == [step.strip() for step in steps]


@settings(deadline=None, max_examples=150)
@given(TEXT, st.sampled_from(["", "### Response:\n"]))
def test_every_step_ends_in_one_token_that_holds_its_last_character(
    tiny_tokenizer: PreTrainedTokenizerFast, text: str, prompt: str
) -> None:
    steps = [Step(step.start + len(prompt), step.end + len(prompt)) for step in split_steps(text)]
    encoding = tiny_tokenizer(prompt + text, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    ends = step_end_tokens(steps, offsets)
    assert len(ends) == len(steps)
    for step, token in zip(steps, ends, strict=True):
        start, end = offsets[token]
        assert start < step.end <= end
        # Byte-level tokens share the offsets of one character; all of its bytes must have been read.
        assert token + 1 == len(offsets) or offsets[token + 1][0] >= step.end
    # This tokenizer has merges of at most one line, so no two steps share a token.
    assert len(set(ends)) == len(ends)


def test_a_character_of_several_byte_tokens_ends_at_the_last_of_them() -> None:
    # "a🧮" then "b": the abacus is four byte tokens at (1, 2); special tokens are empty spans.
    offsets = [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3), (3, 4), (0, 0)]
    assert step_end_tokens([Step(0, 2), Step(3, 4)], offsets) == (5, 7)


def test_a_step_without_a_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="no token covers the step at characters 5 to 9"):
        step_end_tokens([Step(0, 4), Step(5, 9)], [(0, 2), (2, 4)])
    with pytest.raises(ValueError, match="step 1 of 2 is blank"):
        join_steps(["a", " "])


def test_splitting_long_adversarial_text_takes_linear_work() -> None:
    # A quadratic rule would hit the suite's time limit here.
    for unit in ("Step ", "**", "#" * 6, "1.", "\\[\n", "```\n", "so the final ", " ", "\n", "\r\n \r\n", "answer"):
        split_steps(unit * (200_000 // len(unit)))


# Measures


def test_first_error_f1_of_trivial_and_perfect_judges() -> None:
    gold = [-1, -1, 0, 2, 1, -1]
    assert first_error_f1([-1] * 6, gold) == 0.0  # all right ones met, no error met
    assert first_error_f1([0] * 6, gold) == 0.0  # one error of three met, no right one met
    assert first_error_f1(gold, gold) == 1.0
    assert first_error_f1([1, 1, 1, 1, 2, 1], gold) == 0.0  # both shares are 0: 0, not NaN
    assert first_error_f1([], []) == 0.0


def test_first_error_f1_is_the_harmonic_mean_of_both_shares() -> None:
    # Errors: 1 of 2 met at the exact place (0 is met, 3 is not 2). Right: 3 of 4. F1 = 2 * 1/2 * 3/4 / (5/4) = 0.6.
    assert first_error_f1([0, 3, -1, -1, -1, 0], [0, 2, -1, -1, -1, -1]) == pytest.approx(0.6, abs=1e-12)


def test_labels_off_by_one_are_seen_in_the_f1() -> None:
    gold = [-1, 0, 1, 2, -1]
    assert first_error_f1([place + 1 if place >= 0 else -1 for place in gold], gold) == 0.0


def test_pair_accuracy_counts_untied_pairs_and_halves_equal_scores() -> None:
    # List 1, ranks 0 1 1: pairs (0,1) right, (0,2) equal: 1.5 of 2. List 2: wrong, 0 of 1. Together 1.5 / 3.
    assert pair_accuracy([[0.9, 0.1, 0.9], [0.2, 0.3]], [[0, 1, 1], [0, 1]]) == pytest.approx(0.5)
    assert pair_accuracy([[0.1, 0.2]], [[0, 0]]) == 0.0


def test_step_accuracy_leaves_unjudged_steps_out() -> None:
    # 0.5 is on the right side; judged are 4 steps: right, wrong (soft 0.4), wrong, right -> 2 of 4.
    assert step_accuracy([[0.5, 0.6, 0.2], [0.1, 0.9]], [[1.0, 0.4, None], [1.0, 0.5]]) == pytest.approx(0.5)


def test_the_first_error_is_the_first_score_below_the_threshold() -> None:
    assert first_error([0.9, 0.5, 0.4, 0.1]) == 2
    assert first_error([0.9, None, 0.5]) == -1
    assert first_error([0.9, 0.5], threshold=0.6) == 1
    assert first_error([]) == -1


def test_aggregations_of_hand_worked_scores() -> None:
    scores = (0.5, 0.25, 0.75)
    assert aggregate(scores) == 0.25
    assert aggregate(scores, "product") == 0.09375  # 1/2 * 1/4 * 3/4 = 3/32
    assert aggregate(scores, "mean") == 0.5
    assert aggregate(scores, "last") == 0.75
    assert [aggregate((), how) for how in ("min", "product", "mean", "last")] == [0.0] * 4
    with pytest.raises(ValueError, match="unknown aggregation 'max'; choose one of min, product, mean, last"):
        aggregate(scores, "max")  # type: ignore[arg-type]


def test_processbench_is_read_and_an_oracle_scores_one(data_folder: Path) -> None:
    rows = read_judged(data_folder / "processbench" / "gsm8k.json")
    gold = [row.first_error for row in rows if isinstance(row, LocatedError)]
    assert (len(gold), sum(place >= 0 for place in gold)) == (400, 207)  # arXiv 2412.06559, table 2
    assert first_error_f1(gold, gold) == 1.0
    assert first_error_f1([-1] * 400, gold) == 0.0


def test_processbench_as_json_lines_is_the_same(tmp_path: Path, data_folder: Path) -> None:
    source = data_folder / "processbench" / "gsm8k.json"
    write_jsonl(tmp_path / "gsm8k.jsonl", json.loads(source.read_text(encoding="utf-8")))
    assert read_judged(tmp_path / "gsm8k.jsonl") == read_located(source)


def test_solutions_of_gsm8k_split_into_their_lines(data_folder: Path) -> None:
    with (data_folder / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for _, line in zip(range(500), file, strict=False)]
    for answer in answers:
        assert texts(answer) == [line.strip() for line in answer.split("\n") if line.strip()]
    assert all(texts(answer)[-1].startswith("#### ") for answer in answers)
