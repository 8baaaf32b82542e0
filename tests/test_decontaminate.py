import json
import random

import pytest

from rleif.evolution import Decontaminator
from rleif.evolution.decontaminate import ngrams, words
from rleif.records import Problem, read_rows
from rleif.sources import read_texts

VOCABULARY = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)]


def problem(text: str, **meta) -> Problem:
    return Problem(id="p", root="p", instruction=text, meta=meta)


def test_an_8_gram_is_found_with_its_test_set_row_and_text():
    tests = {
        "a": ["nothing of the kind here at all, really nothing"],
        "b": ["x", "One two three, four five SIX seven eight."],
    }
    rejection = Decontaminator(tests, n=8)(problem("zero one two three four five six seven eight nine"))
    assert rejection is not None
    assert (rejection.status, rejection.rule) == ("contaminated", "8gram")
    assert rejection.evidence == "b row 1: 'one two three four five six seven eight'"


def test_seven_words_in_common_are_no_8_gram():
    check = Decontaminator({"t": ["one two three four five six seven eight"]}, n=8)
    assert check(problem("one two three four five six seven nine")) is None


def test_the_longest_size_that_hits_is_reported():
    text = " ".join(VOCABULARY[:20])
    check = Decontaminator({"t": [text]}, n=[8, 13])
    thirteen = check(problem("so " + " ".join(VOCABULARY[3:16]) + " then"))
    eight = check(problem("so " + " ".join(VOCABULARY[3:11]) + " then"))
    assert thirteen is not None
    assert eight is not None
    assert (thirteen.rule, eight.rule) == ("13gram", "8gram")
    assert thirteen.evidence == f"t row 0: {' '.join(VOCABULARY[3:16])!r}"


def test_case_punctuation_and_thousands_separators_do_not_hide_an_overlap():
    check = Decontaminator({"t": ["He pays $1,080 for 12 of the 40 red pens."]}, n=8)
    assert check(problem("he PAYS 1080, for 12 of the 40 (red) pens")) is not None


def test_a_test_text_shorter_than_the_n_gram_is_met_only_as_a_whole():
    check = Decontaminator({"t": ["What is 2 + 2?"]}, n=8)
    assert check(problem("what is 2 + 2")).rule == "text"  # type: ignore[union-attr]
    assert check(problem("Tom asks: what is 2 + 2, and why?")) is None


def test_planted_rows_are_all_found_and_clean_rows_are_not():
    rng = random.Random(0)
    tests = [" ".join(rng.choices(VOCABULARY, k=40)) for _ in range(200)]
    check = Decontaminator({"t": tests}, n=[8, 13])
    for row, text in enumerate(tests):
        clean = rng.choices(VOCABULARY, k=40)
        assert check(problem(" ".join(clean))) is None
        start = rng.randrange(40 - 8)
        planted = [*clean[:10], *text.split()[start : start + 8], *clean[10:]]
        rejection = check(problem(" ".join(planted)))
        assert rejection is not None
        assert rejection.evidence.startswith(f"t row {row}: ")


def test_held_out_problems_are_protected_by_program_and_by_text_but_not_by_phrases():
    text = "Ann has three red pens and then she buys two more pens today."
    held = Problem(id="h1", root="h1", instruction=text, meta={"program_key": "k1"})
    check = Decontaminator(held_out=[held])
    same_program = check(problem("Bo owns 3 cats and gets 2 more.", program_key="k1"))
    assert same_program is not None
    assert (same_program.status, same_program.rule) == ("contaminated", "program")
    assert same_program.evidence == "same program as held-out problem h1"
    assert check(problem(text.upper(), program_key="k2")).rule == "text"  # type: ignore[union-attr]
    assert check(problem(text + " How many pens has she now?", program_key="k2")) is None
    assert check(problem("No program is known of this one.")) is None


@pytest.mark.parametrize("sizes", [1, 0, [], [8, 1]])
def test_senseless_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="n-gram sizes must be 2 or more"):
        Decontaminator({}, n=sizes)


def test_n_grams_of_few_words_are_none():
    assert list(ngrams(["a", "b"], 3)) == []
    assert list(ngrams(["a", "b", "c"], 3)) == ["a b c"]
    assert words("Tom's 1,080.5 and 3,45") == ["tom", "s", "1080.5", "and", "3", "45"]


def test_every_gsm8k_test_problem_is_recognised_even_inside_other_text(data_folder):
    texts = read_texts(data_folder / "gsm8k" / "test.jsonl")
    assert len(texts) == 1319
    check = Decontaminator({"gsm8k_test": texts}, n=[13, 8])
    missed = [text for text in texts if check(problem("Consider this. " + text + " Explain.")) is None]
    assert missed == []


def test_gsm8k_train_meets_its_test_set_in_few_rows_and_each_hit_is_real(data_folder):
    tests = [row["question"] for row in read_rows(data_folder / "gsm8k" / "test.jsonl")]
    check = Decontaminator({"gsm8k_test": tests}, n=[13, 8])
    hits = [r for row in read_rows(data_folder / "gsm8k" / "train.jsonl") if (r := check(problem(row["question"])))]
    assert len(hits) == 94
    for hit in hits:
        place, gram = hit.evidence.removeprefix("gsm8k_test row ").split(": ", 1)
        gram = gram.strip("'\"")
        assert f" {gram} " in f" {' '.join(words(tests[int(place)]))} "
        assert f" {gram} " in f" {' '.join(words(hit.problem.instruction))} "


def test_evidence_is_plain_json():
    rejection = Decontaminator({"t": ["a b c d e f g h"]})(problem("a b c d e f g h"))
    assert rejection is not None
    json.dumps(rejection.evidence)
