from pathlib import Path

import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from rleif.evolution import MATH_DOWN, MATH_UP, load_operator, render
from rleif.teachers.base import Operator

GOLDEN = Path(__file__).parent / "data" / "prompts"
INSTRUCTION = "Ann has {n} = 3 pens {{ 7*7 }} and buys 2. How many?"
OPERATORS = [*MATH_UP.values(), *MATH_DOWN.values()]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_rendered_prompts_are_golden(operator):
    assert render(operator, INSTRUCTION, fence="FENCE-1") == (GOLDEN / f"{operator.name}.txt").read_text()


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_an_operator_s_own_text_and_the_problem_reach_the_prompt(operator):
    body = operator.template.split("-%}")[1].split("{%-")[0].strip()
    text = render(operator, INSTRUCTION, fence="FENCE-1")
    assert len(body.split()) > 15
    assert body in text
    assert text.count(INSTRUCTION) == 1
    others = [other.template.split("-%}")[1].split("{%-")[0].strip() for other in OPERATORS if other != operator]
    assert not any(other in text for other in others)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_prompts_hold_the_four_parts_and_the_paper_s_limits(operator):
    text = render(operator, INSTRUCTION, fence="FENCE-1")
    headings = ["#Elements Identified#:", "#Plan#:", "#Rewritten Instruction#:", "#Finally Rewritten Instruction#:"]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "at most 30 words longer" in text
    assert ("at least 3 of the listed elements" in text) is (operator.direction == "up")


def test_operators_say_what_they_are_and_where_they_come_from():
    assert list(MATH_UP) == ["add_constraints", "concretize", "increase_reasoning"]
    assert list(MATH_DOWN) == ["lower_difficulty", "new_topic"]
    assert {operator.direction for operator in MATH_UP.values()} == {"up"}
    assert {operator.direction for operator in MATH_DOWN.values()} == {"down"}
    assert all("2308.09583" in operator.source and operator.version == "1" for operator in OPERATORS)


def test_an_instruction_is_never_part_of_the_template():
    text = render(MATH_UP["concretize"], "{% for x in y %} {{ secret }} {# gone? #}", fence="F1")
    assert "{% for x in y %} {{ secret }} {# gone? #}" in text


def test_a_fence_that_the_instruction_holds_is_refused():
    with pytest.raises(ValueError, match="draw another one"):
        render(MATH_UP["concretize"], "Ann F1 has pens", fence="F1")
    with pytest.raises(ValueError, match="has no prompt template"):
        render(Operator(name="bare", direction="up"), "Ann", fence="F1")


def test_an_own_operator_may_extend_the_frame_or_stand_alone(tmp_path):
    header = '---\nname: mine\ndirection: up\nversion: "2"\nsource: here\n---\n'
    (tmp_path / "framed.j2").write_text(header + '{% extends "_upward.j2" %}{% block method %}Add a cat.{% endblock %}')
    (tmp_path / "alone.j2").write_text(header + "Rewrite: {{ instruction }}")
    framed = load_operator(tmp_path / "framed.j2")
    assert (framed.name, framed.direction, framed.version, framed.source) == ("mine", "up", "2", "here")
    assert "METHOD\nAdd a cat." in render(framed, "Ann has pens", fence="F1")
    assert render(load_operator(tmp_path / "alone.j2"), "Ann has pens", fence="F1") == "Rewrite: Ann has pens"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Rewrite: {{ instruction }}", "expected front matter"),
        ("---\nname: x\n---\nbody", r"lacks \['direction', 'source', 'version'\], has unknown \[\]"),
        ("---\nname: x\ndirection: sideways\nversion: 1\nsource: s\n---\nbody", "'sideways' is not one of up, down"),
        ("---\njust text\n---\nbody", "'key: value' lines"),
    ],
)
def test_a_bad_prompt_file_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "bad.j2"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_operator(path)
    assert str(path) in str(caught.value)


def test_templates_are_sandboxed_and_strict():
    unknown = Operator(name="x", direction="up", template="{{ instructoin }}")
    with pytest.raises(UndefinedError, match="instructoin"):
        render(unknown, "Ann", fence="F1")
    hostile = Operator(name="x", direction="up", template="{{ instruction.__class__.__mro__ }}")
    with pytest.raises(SecurityError):
        render(hostile, "Ann", fence="F1")
