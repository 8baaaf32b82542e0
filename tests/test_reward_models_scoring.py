"""Scores of saved reward models: independent of batch and padding, loaded by plain transformers, cut at a length."""

from pathlib import Path

import pytest
import torch
from reward_world import QUICK, ranked_lists, saved, summed_solutions, trained_head
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from reward_models.backbone import pad_batch
from reward_models.irm import InstructionRewardModel, IRMConfig, IRMTrainer
from reward_models.prm import (
    PRMConfig,
    PRMTrainer,
    ProcessRewardModel,
)

LONG = "Ann buys 30 more pens and gives half of them to 7 friends. 日本 🧮 How many?"
INSTRUCTIONS = ["Ann has 12 pens.", "How many?", LONG] * 2
SOLUTIONS = [
    "Step 1: 1 + 1 = 2\nStep 2: 2 + 2 = 5\nThe answer is: 5", "", "a single line", "p1\r\n\r\np2 🧮\r\n\r\np3",
    "1. a\n2. b\n#### 3", "x\ny",
]  # fmt: skip


def test_scores_do_not_depend_on_the_batch_and_keep_the_order(tmp_path: Path, base: str) -> None:
    irm = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "irm", "irm"))
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    alone = [irm.score([text])[0] for text in INSTRUCTIONS]
    for size in (2, 4, 64):
        assert irm.score(INSTRUCTIONS, batch_size=size) == pytest.approx(alone, abs=1e-6)
    single = [prm.score_steps([q], [s])[0] for q, s in zip(INSTRUCTIONS, SOLUTIONS, strict=True)]
    for size in (2, 64):
        for one, many in zip(single, prm.score_steps(INSTRUCTIONS, SOLUTIONS, batch_size=size), strict=True):
            assert many.steps == one.steps
            assert many.scores == pytest.approx(one.scores, abs=1e-6)
    assert [len(result.scores) for result in single] == [3, 0, 1, 3, 3, 2]
    assert len({round(score, 6) for score in alone}) == 3
    assert all(0 < score < 1 for result in single for score in result.scores)
    assert (irm.score([]), prm.score_steps([], [])) == ([], [])


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("kind", ["irm", "prm"])
def test_padding_amount_and_side_do_not_change_a_score(base: str, kind: str, count: int) -> None:
    network = trained_head(base, kind).eval()
    ids, reads, pads = [5, 6, 7, 8], [1, 3], [0] * count
    with torch.no_grad():
        plain = network(**pad_batch([ids], [reads], 0))
        right = network(**pad_batch([ids, [9] * (4 + count)], [reads, [0]], 0))[:1]
        left = network(
            input_ids=torch.tensor([[*pads, *ids]]),
            attention_mask=torch.tensor([[*pads, 1, 1, 1, 1]]),
            positions=torch.tensor([[count + 1, count + 3]]),
        )
    torch.testing.assert_close(right, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(left, plain, rtol=0, atol=1e-6)


def test_the_mask_of_a_batch_comes_from_lengths_even_where_the_text_holds_the_pad_id() -> None:
    batch = pad_batch([[5, 0, 7, 0], [0]], [[1, 3], [0]], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 0, 7, 0], [0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["positions"].tolist() == [[1, 3], [0, 0]]


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_any_pad_token_gives_the_same_scores_and_the_eos_is_read(
    tmp_path: Path, base: str, tiny_tokenizer: PreTrainedTokenizerFast, pad: str | None
) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token=pad, eos_token="<eos>", padding_side="left"
    )
    reference = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "reference", "irm"))
    path = saved(base, tmp_path / "irm", "irm", tokenizer)
    irm = InstructionRewardModel.from_pretrained(path)
    assert irm.tokenizer.pad_token == pad
    assert irm.score(INSTRUCTIONS) == pytest.approx(reference.score(INSTRUCTIONS), abs=1e-6)

    plain = AutoModelForSequenceClassification.from_pretrained(path)
    for text, score in zip(INSTRUCTIONS, irm.score(INSTRUCTIONS), strict=True):
        ids = [*irm.tokenizer(text)["input_ids"], irm.tokenizer.eos_token_id]
        with torch.no_grad():
            logit = plain(input_ids=torch.tensor([ids])).logits
        assert torch.sigmoid(logit).item() == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_training_works_without_a_pad_token_of_its_own(
    tmp_path: Path, base: str, tiny_tokenizer: PreTrainedTokenizerFast, pad: str | None
) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token=pad, eos_token="<eos>"
    )
    irm = IRMTrainer(
        base, IRMConfig(output_dir=str(tmp_path / "irm"), **QUICK), ranked_lists(4, 0), processing_class=tokenizer
    )
    prm = PRMTrainer(
        base, PRMConfig(output_dir=str(tmp_path / "prm"), **QUICK), summed_solutions(4, 0), processing_class=tokenizer
    )
    for trainer in (irm, prm):
        assert 0 < trainer.train().training_loss < 2


def test_plain_transformers_loads_a_saved_prm_and_gives_the_same_scores(tmp_path: Path, base: str) -> None:
    path = saved(base, tmp_path / "prm", "prm")
    prm = ProcessRewardModel.from_pretrained(path)
    network, tokenizer = AutoModelForTokenClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    text = SOLUTIONS[0]
    (result,) = prm.score_steps(["Add."], [text])
    prompt = prm.format.render("Add.")
    tokens = tokenizer(prompt + text, return_offsets_mapping=True, return_tensors="pt")
    with torch.no_grad():
        scores = torch.sigmoid(network(input_ids=tokens["input_ids"]).logits[0, :, 0])
    for step, score in zip(result.steps, result.scores, strict=True):
        last = len(prompt) + step.end - 1
        (place,) = [i for i, (start, end) in enumerate(tokens["offset_mapping"][0].tolist()) if start <= last < end]
        assert scores[place].item() == pytest.approx(score, abs=1e-6)


def test_given_steps_are_scored_as_the_same_text_is(tmp_path: Path, base: str) -> None:
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    given = prm.score_given_steps(["Add."], [("Step 1: 1 + 1 = 2", "Step 2: 2 + 2 = 5")])
    split = prm.score_steps(["Add."], ["Step 1: 1 + 1 = 2\nStep 2: 2 + 2 = 5"])
    assert given == split


def test_later_steps_do_not_change_earlier_scores(tmp_path: Path, base: str) -> None:
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    long = prm.score_steps(["Add."], ["Step 1: a b\nStep 2: c d\nStep 3: e"])[0].scores
    short = prm.score_steps(["Add."], ["Step 1: a b\nStep 2: c d"])[0].scores
    assert short == pytest.approx(long[:2], abs=1e-6)


def test_steps_beyond_the_length_score_zero_and_are_counted(
    tmp_path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(base, tmp_path / "prm", "prm", max_length=30, prompt_template="{instruction}")
    prm, text = ProcessRewardModel.from_pretrained(path), "\n".join(f"Step {k}: 1 + 1 = 2" for k in range(1, 6))
    (result,) = prm.score_steps(["Q"], [text])
    whole = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "long", "prm", prompt_template="{instruction}"))
    read = len(result.steps) - result.unread
    assert 0 < read < 5 == len(result.scores)
    assert result.scores[:read] == pytest.approx(whole.score_steps(["Q"], [text])[0].scores[:read], abs=1e-6)
    assert result.scores[read:] == (0.0,) * result.unread
    assert "1 of 1 solutions are longer than 30 tokens" in caplog.text
    (nothing,) = prm.score_steps(["a long prompt " * 40], [text])
    assert (nothing.scores, nothing.unread) == ((0.0,) * 5, 5)


def test_a_long_instruction_is_read_from_its_beginning(
    tmp_path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    irm = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "irm", "irm", max_length=10))
    scores = irm.score(["1234567890", "123456789", "1234567890 and more"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0] == pytest.approx(scores[2], abs=1e-6)
    assert "2 of 3 instructions are longer than 10 tokens" in caplog.text
