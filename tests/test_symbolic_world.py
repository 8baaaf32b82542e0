"""The world of word problems: every sentence of the grammar is read back, every problem is what its program says."""

import ast
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rleif.records import Problem
from rleif.teachers.symbolic import DEFECTS, analyse, defective, grammar, read, sample_problem
from rleif.teachers.symbolic.grammar import FORMS, QUESTIONS, THEMES, UNITS
from rleif.teachers.symbolic.program import Program, Quantity, count_steps, evaluate, is_sound, program_key, slopes
from rleif.teachers.symbolic.reader import parse
from rleif.teachers.symbolic.render import render, solution_steps
from rleif.teachers.symbolic.restore import program_of
from rleif.teachers.symbolic.sample import MAX_STEPS

PACKAGE = Path(grammar.__file__).parent
# "she" is Greta: a pronoun never means the one whose amount is being told
INES_AND_ANOTHER = (
    "Greta bakes 3 tarts. Ines bakes 5 tarts. Ines bakes 2 more tarts than she does. Find how many tarts Ines bakes."
)


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_the_reader_shares_nothing_with_the_writer_but_the_grammar_table() -> None:
    assert {m for m in imports_of(PACKAGE / "reader.py") if m.startswith("rleif")} == {
        "rleif.teachers.symbolic.grammar"
    }
    assert not {m for m in imports_of(PACKAGE / "grammar.py") if m.startswith("rleif")}


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(THEMES) >= 12
    assert len({theme.name for theme in THEMES}) == len(THEMES)
    assert all(len(set(form.sentences)) >= 3 for form in FORMS.values())
    assert all(len(set(templates)) >= 3 for templates in QUESTIONS.values())
    wanted = {"given", "more", "fewer", "times", "share", "left", "total", "percent", "rate", "comparison"}
    assert wanted <= FORMS.keys()


@pytest.mark.parametrize(
    ("sentences", "answer"),
    [
        ("Greta bakes exactly 12 tarts. How many tarts does Greta bake?", 12),
        ("Greta bakes 3 trays of 4 tarts each. Find how many tarts Greta bakes.", 12),
        ("Greta bakes 7 tarts in the morning and 5 in the afternoon. How many tarts does Greta bake?", 12),
        ("Greta bakes 12 tarts. Hugo bakes 5 more tarts than Greta. How many tarts does Hugo bake?", 17),
        ("Greta bakes 9 tarts. Hugo falls 2 short of the number of tarts Greta bakes. How many tarts does he bake?", 7),
        ("Greta bakes 12 tarts. For every tart Greta bakes, Hugo bakes 3. How many tarts does Hugo bake?", 36),
        ("Greta bakes 12 tarts. Hugo bakes one third as many tarts as Greta. How many tarts does Hugo bake?", 4),
        ("Greta bakes 12 tarts. Hugo bakes tarts, but only 25% as many as Greta. How many tarts does Hugo bake?", 3),
        ("Greta bakes 12 tarts. Each tart Greta bakes brings Hugo 3 dollars. How many dollars does Hugo earn?", 36),
        ("Greta bakes 12 tarts. Of these tarts, Greta eats 5. How many tarts does Greta have left?", 7),
        ("Greta bakes 12 tarts. Hugo bakes 5 tarts. How many tarts do Greta and Hugo bake together?", 17),
        ("Greta bakes 12 tarts. Hugo bakes 5 tarts. By how many tarts is Greta ahead of Hugo?", 7),
        ("Greta bakes 12 tarts. Hugo bakes twice as many tarts as she does. How many tarts does he bake?", 24),
    ],
)  # fmt: skip
def test_the_reader_answers_each_kind_of_sentence(sentences: str, answer: int) -> None:
    assert read(sentences) == answer


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Hugo bakes 5 more tarts than Greta. How many tarts does Hugo bake?", "underdetermined"),
        ("Greta bakes 12 tarts. Greta bakes 13 tarts. How many tarts does Greta bake?", "contradictory"),
        ("Greta bakes 3 tarts. Hugo bakes 5 fewer tarts than Greta. How many tarts does Hugo bake?", "contradictory"),
        ("Greta bakes 3 tarts. Hugo bakes half as many tarts as Greta. Find how many tarts he bakes.", "contradictory"),
        ("Greta bakes 3 tarts. Ines bakes 4 tarts. How many tarts does she bake?", "ambiguous"),
        ("Greta bakes 3 tarts. Ines bakes 3 tarts. How many tarts does she bake?", "solved"),
        ("Greta bakes 3 tarts. Greta bakes exactly 3 tarts. How many tarts does Greta bake?", "solved"),
        ("Greta bakes 3 tarts. How many tarts does he bake?", "underdetermined"),
        (INES_AND_ANOTHER, "solved"),
        ("Greta bakes 3 apples. How many apples does Greta pick?", "unreadable"),
        ("How many tarts does Greta bake? Greta bakes 3 tarts.", "unreadable"),
        ("A robe takes 2 bolts of blue fiber. How many bolts does it take?", "unreadable"),
        ("Greta bakes " + "9" * 5000 + " tarts. How many tarts does Greta bake?", "unreadable"),
        ("", "unreadable"),
    ],
)  # fmt: skip
def test_the_reader_says_why_a_text_has_no_answer(text: str, status: str) -> None:
    assert analyse(text).status == status
    assert (read(text) is None) == (status != "solved")


def test_the_order_of_the_sentences_does_not_matter() -> None:
    text = "Hugo bakes 5 more tarts than Greta. Greta bakes 12 tarts. How many tarts does Hugo bake?"
    assert read(text) == 17
    steps = solution_steps(program_of(Problem(id="x", root="x", instruction=text)))
    assert steps == ("Step 1: Hugo bakes 12 + 5 = 17 tarts.", "The answer is: 17")


def test_what_follows_only_backwards_is_read_but_is_no_program() -> None:
    text = "Hugo bakes 17 tarts. Hugo bakes 5 more tarts than Greta. How many tarts does Greta bake?"
    assert read(text) == 12
    with pytest.raises(ValueError, match="not a well-posed problem of the symbolic world"):
        program_of(Problem(id="x", root="x", instruction=text))


def test_redundant_sentences_are_counted() -> None:
    told_twice = "Greta bakes 3 tarts. Greta bakes exactly 3 tarts. How many tarts does Greta bake?"
    beside_the_point = "Greta bakes 3 tarts. Hugo bakes 9 tarts. How many tarts does Greta bake?"
    assert [analyse(told_twice).redundant, analyse(beside_the_point).redundant] == [1, 1]


def small_program(relation: str, phrasing: int, theme: grammar.Theme, left: bool, pronoun: bool) -> Program:
    """Two amounts that are told, one relation over them (or over what is left of the first), and the plain question."""
    item, form = theme.items[0], FORMS[relation]
    quantities = [
        Quantity(id=0, relation="given", numbers=(60,), owner="Greta", unit=item),
        Quantity(id=1, relation="given", numbers=(20,), owner="Hugo", unit=item),
    ]
    if left:
        quantities.append(
            Quantity(id=2, relation="left", args=(0,), numbers=(20,), owner="Greta", unit=item, left=True)
        )
    numbers = {"percent": (25,), "share": (4,), "groups": (3, 5), "parts": (3, 5)}.get(relation, (3,)[: form.n_numbers])
    target = Quantity(
        id=9,
        relation=relation,
        args=((2,) if left else (0,), (0, 1))[form.n_args == 2] if form.n_args else (),
        numbers=numbers,
        owner="Greta" if relation == "left" else "Ines",
        unit=theme.rewards[0] if relation == "rate" else item,
        left=relation == "left",
        phrasing=phrasing,
        pronoun=pronoun,
    )
    return Program(theme=theme.name, quantities=(*quantities, target), target=9)


@pytest.mark.parametrize("relation", FORMS)
def test_every_phrasing_of_every_relation_in_every_theme_is_read_back_as_itself(relation: str) -> None:
    form = FORMS[relation]
    refers = form.n_args == 1 and relation != "left"
    for theme in THEMES:
        for phrasing in range(len(form.sentences)):
            for left, pronoun in [(False, False), (True, False), (False, True)][: 3 if refers else 1]:
                built = small_program(relation, phrasing, theme, left, pronoun)
                text = render(built)
                parsed = parse(text)
                assert parsed is not None, text
                said = parsed.statements[-1]
                assert (said.relation, said.phrasing, said.numbers) == (relation, phrasing, built[9].numbers), text
                assert read(text) == evaluate(built)[9], text


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_phrasing_of_every_question_is_read_back_as_itself(kind: str) -> None:
    for unit in UNITS:
        for phrasing in range(len(QUESTIONS[kind])):
            told = (
                Quantity(id=0, relation="given", numbers=(60,), owner="Greta", unit=unit),
                Quantity(id=1, relation="given", numbers=(20,), owner="Hugo", unit=unit),
                Quantity(id=2, relation="left", args=(0,), numbers=(9,), owner="Greta", unit=unit, left=True),
                Quantity(id=3, relation="total", args=(0, 1), owner=None, unit=unit),
                Quantity(id=4, relation="comparison", args=(0, 1), owner=None, unit=unit),
            )
            target = {"plain": 1, "left": 2, "total": 3, "comparison": 4}[kind]
            text = render(Program(theme="bakery", quantities=told, target=target, question=phrasing))
            parsed = parse(text)
            assert parsed is not None, text
            assert (parsed.question.kind, parsed.question.phrasing) == (kind, phrasing)
            assert read(text) == {"plain": 20, "left": 51, "total": 80, "comparison": 40}[kind]  # 60 - 9, 60 ± 20


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, MAX_STEPS))
def test_a_sampled_problem_is_what_its_meta_says(seed: int, steps: int) -> None:
    problem = sample_problem(random.Random(seed), steps)
    built = Program.from_json(json.loads(json.dumps(problem.meta["program"])))
    reading = analyse(problem.instruction)
    assert (reading.status, reading.steps, reading.redundant) == ("solved", steps, 0)
    assert str(reading.answer) == problem.answer
    assert problem.meta["steps"] == count_steps(built) == steps
    assert is_sound(built, most=999)
    assert render(built) == problem.instruction
    assert program_of(Problem(id="x", root="x", instruction=problem.instruction)) is not None


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 8))
def test_the_program_read_back_from_the_text_is_the_program(seed: int, steps: int) -> None:
    problem = sample_problem(random.Random(seed), steps)
    bare = Problem(id="bare", root="bare", instruction=problem.instruction)
    restored, built = program_of(bare), program_of(problem)
    assert render(restored) == problem.instruction
    assert solution_steps(restored) == solution_steps(built)
    assert program_key(restored) == program_key(built) == problem.meta["program_key"]


def test_the_program_key_sees_numbers_and_relations_but_not_names_themes_or_wording() -> None:
    def key(text: str) -> str:
        return program_key(program_of(Problem(id="x", root="x", instruction=text)))

    first = key("Greta bakes 12 tarts. Hugo bakes 5 more tarts than Greta. How many tarts does Hugo bake?")
    assert first == key(
        "The farm hires helpers. The number of eggs Lars gathers is 12. Nadia gathers as many eggs as Lars and then 5 "
        "more. Find how many eggs Nadia gathers."
    )
    assert first != key("Greta bakes 12 tarts. Hugo bakes 6 more tarts than Greta. How many tarts does Hugo bake?")
    assert first != key("Greta bakes 12 tarts. Hugo bakes 5 fewer tarts than Greta. How many tarts does Hugo bake?")


def test_a_quantity_that_cancels_out_has_slope_zero() -> None:
    told = (
        Quantity(id=0, relation="given", numbers=(12,), owner="Greta", unit="tarts"),
        Quantity(id=1, relation="more", args=(0,), numbers=(5,), owner="Hugo", unit="tarts"),
        Quantity(id=2, relation="comparison", args=(1, 0), owner=None, unit="tarts"),  # 12 + 5 - 12, whatever the 12
    )
    cancelling = Program(theme="bakery", quantities=told, target=2)
    assert slopes(cancelling) == {0: Fraction(0), 1: Fraction(1), 2: Fraction(1)}
    assert not is_sound(cancelling, most=999)


def test_the_worked_solution_is_golden() -> None:
    text = (
        "Greta picks 40 plums. Hugo picks 25% as many plums as Greta. Later Hugo eats 4 of the plums. For every plum "
        "Hugo has left, Ines earns 3 dollars. Lars earns 7 dollars. How many more dollars does Ines earn than Lars?"
    )
    steps = solution_steps(program_of(Problem(id="x", root="x", instruction=text)))
    assert steps == (
        "Step 1: Hugo picks 40 * 25 / 100 = 10 plums.",
        "Step 2: Hugo has 10 - 4 = 6 plums left.",
        "Step 3: Ines earns 6 * 3 = 18 dollars.",
        "Step 4: The difference is 18 - 7 = 11 dollars.",
        "The answer is: 11",
    )


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defective_child_reads_as_its_defect(defect: str) -> None:
    wanted = {
        "missing_premise": "underdetermined",
        "contradiction": "contradictory",
        "ambiguous_referent": "ambiguous",
        "redundant_clause": "solved",
    }
    rng = random.Random(5)
    for i in range(200):
        parent = sample_problem(rng, 1 + i % 8)
        child = defective(parent, rng, defect)
        reading = analyse(child.instruction)
        assert reading.status == wanted[defect], child.instruction
        assert (reading.redundant > 0) == (defect == "redundant_clause")
        assert child.answer == (parent.answer if defect == "redundant_clause" else None)
        assert (child.parent, child.root, child.meta["defect"]) == (parent.id, parent.root, defect)


def test_unknown_defects_and_step_counts_are_refused_with_what_is_allowed() -> None:
    problem = sample_problem(random.Random(0), 2)
    with pytest.raises(ValueError, match="missing_premise"):
        defective(problem, random.Random(0), "typo")
    with pytest.raises(ValueError, match="1 to 10"):
        sample_problem(random.Random(0), 11)


@pytest.mark.parametrize(
    "damage",
    [
        {"target": 99},
        {"quantities": [[0, "given", [], [2], "Nobody", "tarts", False, 0, False]]},
        {"quantities": [[0, "squared", [], [2], "Greta", "tarts", False, 0, False]]},
        {"quantities": [[0, "more", [0], [2], "Greta", "tarts", False, 0, False]]},
        {"quantities": [[0, "given"]]},
        {"theme": None, "question": 3},
    ],
)
def test_a_damaged_program_is_refused(damage: dict[str, object]) -> None:
    good = dict(sample_problem(random.Random(0), 2).meta["program"])
    with pytest.raises(ValueError, match="not a symbolic program"):
        Program.from_json(good | damage)


def test_no_eight_words_in_a_row_are_shared_with_gsm8k_test(data_folder: Path) -> None:
    def ngrams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    lines = (data_folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    known = set().union(*(ngrams(json.loads(line)["question"]) for line in lines))
    assert ("she", "eats", "three", "for", "breakfast", "every", "morning", "and") in known
    rng = random.Random(0)
    assert not any(ngrams(sample_problem(rng, 1 + i % 6).instruction) & known for i in range(1000))
