"""Teachers that vote, and teachers that answer from a store."""

import asyncio
import random
from pathlib import Path

import pytest

from rleif.evolution import MATH_UP
from rleif.records import Problem, Solution
from rleif.teachers.base import Draft, Ranking
from rleif.teachers.chat import Question, Reply, ReplyError, StopAskingError, UnavailableError
from rleif.teachers.committee import Committee
from rleif.teachers.recorded import Recorded
from rleif.teachers.scripted import ScriptedTeacher
from rleif.teachers.store import Store, key_of

PROBLEMS = [Problem(id=name, instruction=name, root=name) for name in "abc"]


def ranks(*tiers: tuple[int, ...], **aspects: list[float]) -> ScriptedTeacher:
    return ScriptedTeacher(rank=lambda problems: Ranking(tiers=tiers, aspects=aspects))


def labels(*values: int) -> ScriptedTeacher:
    return ScriptedTeacher(label=lambda problem, steps: values)


def answers(text: str | None) -> ScriptedTeacher:
    solution = Solution(problem_id="a", instruction="a", steps=(f"The answer is: {text}",), answer=text, by=str(text))
    return ScriptedTeacher(answer=lambda problem: solution)


def fails(error: Exception) -> ScriptedTeacher:
    def raising(*_: object) -> None:
        raise error

    return ScriptedTeacher(rank=raising, label=raising, answer=raising, same=raising)


def test_the_majority_of_comparisons_ranks() -> None:
    # a before b for two of three; a and c, b and c: one each way and one tie.
    members = [ranks((0,), (1,), (2,)), ranks((0,), (1, 2)), ranks((2,), (1,), (0,))]
    # a beats b (2:1) and c (2:1); b and c: 1:1.
    assert asyncio.run(Committee(members).rank(PROBLEMS)) == Ranking(tiers=((0,), (1, 2)))


def test_an_undecided_comparison_is_half_a_win() -> None:
    # a against b and against c 1:1, b against c 2:0: a has 1 win, b 1.5, c 0.5.
    members = [ranks((0,), (1,), (2,)), ranks((1,), (2,), (0,))]
    assert asyncio.run(Committee(members).rank(PROBLEMS)) == Ranking(tiers=((1,), (0,), (2,)))


def test_aspects_are_means_over_the_members_that_gave_them() -> None:
    members = [ranks((0, 1, 2), x=[0, 1, 1]), ranks((0, 1, 2), x=[1, 1, 0], y=[0.5, 0.5, 0.5]), ranks((0, 1, 2))]
    found = asyncio.run(Committee(members).rank(PROBLEMS)).aspects
    assert found == {"x": [0.5, 1.0, 0.5], "y": [0.5, 0.5, 0.5]}


def test_each_step_gets_the_label_with_most_votes_and_zero_where_none_has() -> None:
    committee = Committee([labels(1, 1, -1, 1), labels(1, -1, -1, 0), labels(-1, 0, 1, -1)])
    assert asyncio.run(committee.label(PROBLEMS[0], ["s"] * 4)) == (1, 0, -1, 0)
    assert asyncio.run(Committee([labels(1), labels(-1)]).label(PROBLEMS[0], ["s"])) == (0,)


def test_the_answer_is_that_of_the_majority_whatever_its_form() -> None:
    committee = Committee([answers("7"), answers("12"), answers("12.0"), answers(None)])
    assert asyncio.run(committee.answer(PROBLEMS[0])).by == "12"


@pytest.mark.parametrize(("votes", "expected"), [((True, True, False), True), ((True, False), False)])
def test_same_takes_more_than_half(votes: tuple[bool, ...], expected: bool) -> None:
    members = [ScriptedTeacher(same=lambda a, b, vote=vote: vote) for vote in votes]
    assert asyncio.run(Committee(members).same(*PROBLEMS[:2])) is expected


def test_members_take_turns_at_evolving_by_the_draw_alone() -> None:
    committee = Committee([ScriptedTeacher(evolve=lambda *_, name=name: name, name=name) for name in "xyz"])

    def evolved(seed: int) -> str:
        draft = asyncio.run(committee.evolve(PROBLEMS[0], MATH_UP["concretize"], random.Random(seed)))
        assert isinstance(draft, Draft)
        return draft.instruction

    found = [evolved(seed) for seed in range(20)]
    assert set(found) == set("xyz")
    assert found == [evolved(seed) for seed in range(20)]
    assert committee.name == "x+y+z"


def test_who_fails_abstains_and_when_all_fail_so_does_the_committee() -> None:
    committee = Committee([fails(ReplyError("no")), labels(1, -1), fails(UnavailableError("away"))])
    assert asyncio.run(committee.label(PROBLEMS[0], ["s", "t"])) == (1, -1)
    with pytest.raises(UnavailableError, match="away"):
        asyncio.run(Committee([fails(ReplyError("no")), fails(UnavailableError("away"))]).rank(PROBLEMS))
    for error in (StopAskingError("wrong key"), ZeroDivisionError("bug")):
        with pytest.raises(type(error)):
            asyncio.run(Committee([labels(1), fails(error)]).label(PROBLEMS[0], ["s"]))
    with pytest.raises(ValueError, match="at least one member"):
        Committee([])


def test_a_recorded_client_answers_from_the_store_alone(tmp_path: Path) -> None:
    question = Question(messages=({"role": "user", "content": "2 + 3?"},))
    reply = Reply(text="5", finish_reason="stop", prompt_tokens=3, completion_tokens=1, latency_s=0.1)
    with Store(tmp_path / "s.sqlite") as store:
        recorded = Recorded(store, model="m")
        store.add_reply(key_of(recorded, question), recorded, question, reply)
        assert asyncio.run(recorded.ask(question)) == reply
        for other in (Recorded(store, model="n"), Recorded(store, model="m", name="vllm")):
            with pytest.raises(UnavailableError, match=r"s\.sqlite has no reply of .* to this question \(attempt 0\)"):
                asyncio.run(other.ask(question))
