"""IRM x PRM: what is multiplied, what is refused, and on which token it lands."""

import math
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from reward_models import evaluate
from rleif import rewards
from rleif.records import Completion
from rleif.rollout.step_tokens import token_ends
from rleif.scoring import Sample, Scorer

EOS = 2


class CountingIRM:
    def __init__(self, score=0.5):
        self.value = score
        self.asked = []

    def score(self, instructions):
        self.asked.extend(instructions)
        return [self.value] * len(instructions)


class StepsPRM:
    """Gives back the scores it was made with, one tuple per solution."""

    def __init__(self, *scores):
        self.scores = scores

    def score_steps(self, instructions, solutions):
        return [SimpleNamespace(scores=scores) for scores in self.scores[: len(solutions)]]


@pytest.mark.parametrize(("how", "expected"), [("min", 0.2), ("product", 0.08), ("mean", 0.5), ("last", 0.8)])
def test_aggregates_of_three_steps(how, expected):
    assert rewards.aggregate((0.5, 0.2, 0.8), how) == pytest.approx(expected)


def test_ppo_and_evaluation_know_the_same_aggregations_and_give_the_same_scores():
    assert get_args(rewards.Aggregation) == rewards.AGGREGATIONS == get_args(evaluate.Aggregation)
    for how in rewards.AGGREGATIONS:
        for scores in ((), (0.3,), (0.5, 0.25, 0.75)):
            assert rewards.aggregate(scores, how) == evaluate.aggregate(scores, how)


@pytest.mark.parametrize("how", rewards.AGGREGATIONS)
def test_a_solution_without_steps_earns_nothing(how):
    assert rewards.aggregate((), how) == 0.0


@pytest.mark.parametrize("scores", [(math.nan, 0.5), (0.5, math.nan)])
def test_a_nan_step_is_not_hidden_by_the_minimum(scores):
    assert math.isnan(rewards.aggregate(scores, "min"))


@pytest.mark.parametrize("score", [-0.1, 1.5, math.inf, -math.inf])
def test_a_score_that_is_no_probability_is_refused(score):
    with pytest.raises(ValueError, match=r"outside \[0, 1\].*sigmoid"):
        rewards.InstructionScores(CountingIRM(score)).ensure(["1 + 1?"])
    with pytest.raises(ValueError, match=r"sample 1, step 1 is .* outside \[0, 1\]"):
        rewards.judge_steps(StepsPRM((0.5,), (0.5, score)), ["q", "q"], ["a", "b"])


def test_each_distinct_instruction_is_scored_once():
    irm = CountingIRM()
    scores = rewards.InstructionScores(irm)
    assert scores.ensure(["a", "b", "a"]) == 2
    assert scores.ensure(["b", "c"]) == 1
    assert irm.asked == ["a", "b", "c"]
    assert scores["c"] == 0.5


def test_without_reward_models_both_factors_are_1():
    sample = Sample(prompt=0, instruction="q", answer=None, completion=completion("a"))
    parts = Scorer(rewards.InstructionScores(None), None, "min")([sample])
    assert rewards.irm_times_prm(parts).tolist() == [1.0]
    assert parts.is_correct.isnan().all()


def completion(text, finish_reason="stop"):
    return Completion(prompt_ids=(5,), completion_ids=(7,), logprobs=(-0.1,), finish_reason=finish_reason, text=text)


def test_the_score_is_the_product_of_both_factors():
    samples = [Sample(prompt=0, instruction="q", answer="4", completion=completion(t)) for t in ("\n2 + 2 = 4", "5")]
    seen = []

    def grade(solutions, answers):
        seen.extend(zip(solutions, answers, strict=True))
        return ["correct", "wrong"]

    scorer = Scorer(rewards.InstructionScores(CountingIRM(0.5)), StepsPRM((0.9, 0.8), (0.4,)), "min", grade)
    parts = scorer(samples)
    assert rewards.irm_times_prm(parts).tolist() == pytest.approx([0.4, 0.2])
    assert parts.is_correct.tolist() == [1.0, 0.0]
    assert seen == [("2 + 2 = 4", "4"), ("5", "4")]


def test_a_better_answer_always_earns_more_whatever_the_instruction():
    generator = torch.Generator().manual_seed(0)
    irm, first, second = torch.rand(3, 1_000_000, generator=generator).clamp(min=1e-3).double()
    flags = {
        "is_correct": torch.full_like(irm, math.nan),
        "is_finished": torch.ones(len(irm), dtype=torch.bool),
        "step_ends": torch.zeros(len(irm), 0, dtype=torch.long),
        "step_shares": torch.zeros(len(irm), 0),
    }
    one, two = (rewards.irm_times_prm(rewards.RewardParts(irm=irm, prm=prm, **flags)) for prm in (first, second))
    assert ((first > second) == (one > two)).all()


def test_too_few_results_of_a_reward_model_are_refused():
    with pytest.raises(ValueError, match="1 results for 2 solutions"):
        rewards.judge_steps(StepsPRM((0.5,)), ["q", "q"], ["a", "b"])


@pytest.mark.parametrize(
    ("tokens", "place"),
    [
        ([7, 7, EOS], 2),  # EOS present: on the EOS itself, not on the padding behind it
        ([7, 7, 7, 7, 7], 4),  # cut at the length limit: on the last token
        ([EOS], 0),  # nothing but the EOS
        ([7, 7], 1),  # neither EOS nor the limit (another stop token)
    ],
)
def test_the_score_lands_on_the_last_response_token(tokens, place):
    width = 5
    is_response = torch.arange(width) < torch.tensor([[len(tokens)]])
    zeros = torch.zeros(1, width)
    placed = rewards.place_terminal(torch.tensor([0.7]), torch.tensor([len(tokens)]), width)
    found = rewards.token_rewards(placed, zeros, zeros, is_response, kl_coef=0.1)
    expected = torch.zeros(1, width)
    expected[0, place] = 0.7
    assert torch.equal(found, expected)


def test_token_rewards_worked_by_hand():
    # KL terms -0.5 * (0.2, -0.4) = (-0.1, 0.2); the score 1 is added at the second token; the third is padding.
    is_response = torch.tensor([[True, True, False]])
    logprobs, ref = torch.tensor([[-1.0, -1.0, 9.0]]), torch.tensor([[-1.2, -0.6, math.nan]])
    placed = torch.tensor([[0.0, 1.0, 0.0]])
    found = rewards.token_rewards(placed, logprobs, ref, is_response, kl_coef=0.5)
    torch.testing.assert_close(found, torch.tensor([[-0.1, 1.2, 0.0]]))
    without = rewards.token_rewards(placed, logprobs, None, is_response, kl_coef=0.0)
    assert without.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        # prefixes under min 1, 0.75, 0.5, 0.5; product 1, 0.75, 0.375, 0.28125; mean 1, 0.75, 0.625, 2/3; last 1, p_k
        ("min", [-0.25, -0.25, 0.0]),
        ("product", [-0.25, -0.375, -0.09375]),
        ("mean", [-0.25, -0.125, 2 / 3 - 0.625]),
        ("last", [-0.25, -0.25, 0.25]),
    ],
)
def test_a_steps_share_is_what_it_does_to_the_aggregate(how, shares):
    assert rewards.prefix_shares([0.75, 0.5, 0.75], how) == pytest.approx(shares)


def test_step_rewards_worked_by_hand():
    # r_q 0.8, steps 0.5 then 0.25 (min): shares -0.5, -0.25 -> -0.4 at token 1, -0.2 at token 3. The score is
    # 0.8 * 0.25 = 0.2, so the row must add up to 0.2 - 0.8 = -0.6 and nothing is left for the last token, the EOS.
    found = rewards.place_steps(
        scores=torch.tensor([0.2]),
        irm=torch.tensor([0.8]),
        step_shares=torch.tensor([[-0.5, -0.25]]),
        step_ends=torch.tensor([[2, 4]]),
        lengths=torch.tensor([5]),
        width=6,
    )
    torch.testing.assert_close(found, torch.tensor([[0.0, -0.4, 0.0, -0.2, 0.0, 0.0]]))


def test_step_rewards_add_up_to_the_score_less_the_instruction_reward():
    # A penalty of 1 for not finishing, and a row without steps (A = 0): both stand at the last token.
    found = rewards.place_steps(
        scores=torch.tensor([0.2 - 1.0, 0.0]),
        irm=torch.tensor([0.8, 0.8]),
        step_shares=torch.tensor([[-0.5, -0.25], [0.0, 0.0]]),
        step_ends=torch.tensor([[2, 4], [0, 0]]),
        lengths=torch.tensor([5, 3]),
        width=5,
    )
    torch.testing.assert_close(found[0], torch.tensor([0.0, -0.4, 0.0, -0.2, -1.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0.0, -0.8, 0.0, 0.0]))


@pytest.mark.parametrize("copies", [1, 8, 64])
def test_repeating_a_good_step_earns_nothing_under_min(copies):
    assert sum(rewards.prefix_shares([0.9, 0.6] + [0.9] * copies, "min")) == pytest.approx(0.6 - 1.0)


def test_a_step_ends_at_the_token_that_completes_its_text():
    pieces = ["\nSt", "ep 1: 2", " + 2 = 4\nThe", " answer", " is: 4", ""]
    decode = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    text = decode(range(6))
    ends = [text.index("\nThe"), len(text)]
    assert token_ends(range(6), ends, decode) == [2, 4]
    with pytest.raises(ValueError, match="none ends at"):
        token_ends(range(6), [len(text) + 1], decode)


def test_placement_by_step_needs_step_scores():
    with pytest.raises(ValueError, match="needs a process reward model"):
        Scorer(rewards.InstructionScores(None), None, "min", placement="step")


def test_an_object_that_is_no_reward_model_is_refused():
    with pytest.raises(ValueError, match=r"irm is int: give a path, an object with \.score"):
        rewards.load_irm(3)
    with pytest.raises(ValueError, match=r"prm is list: give a path, an object with \.score_steps"):
        rewards.load_prm([])


def test_a_path_that_is_no_reward_model_is_refused(tmp_path):
    for load in (rewards.load_irm, rewards.load_prm):
        with pytest.raises(ValueError, match=rf"{tmp_path} is not a reward model: it has no reward_model\.json"):
            load(str(tmp_path))
