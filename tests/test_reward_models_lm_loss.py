"""`lm_coef`: a reward model goes on predicting tokens, of right steps or of instructions."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reward_world import QUICK, summed_solutions, trained_head
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedTokenizerFast

from reward_models.irm import IRMConfig, IRMTrainer, encode_instruction
from reward_models.language_head import LanguageHead
from reward_models.losses import next_token_loss
from reward_models.prm import PRMConfig, PRMTrainer, SolutionTokens, right_tokens
from reward_models.records import LabeledSolution, RankedInstructions
from reward_models.training import RewardTrainer

ADD = "Ann has 2 pens and buys 3. How many pens does she have?"
SOLUTIONS = [
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 + 3 = 5", "The answer is: 5"), labels=(1, 1)),
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 + 3 = 6", "The answer is: 6"), labels=(-1, -1)),
    LabeledSolution(instruction="Add 1 and 1.", steps=("1 + 1 = 2",), labels=(1,)),
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 + 3 = 5", "Step 2: 5 - 1 = 3", "3"), labels=(1, -1, 1)),
]


def trainer(path: str, folder: Path, records: list[LabeledSolution] = SOLUTIONS, **config: object) -> PRMTrainer:
    return PRMTrainer(trained_head(path, "prm"), PRMConfig(output_dir=str(folder), **QUICK, **config), records)


def summed_loss(made: RewardTrainer) -> torch.Tensor:
    batch = made._collate([made.train_dataset[i] for i in range(len(made.train_dataset))])
    return made._logits_and_loss(made.model.train(), batch)[1]


def loss_of_words(made: RewardTrainer) -> torch.Tensor:
    """What the next tokens add to the loss."""
    with_words, made.language_head = summed_loss(made), None
    return with_words - summed_loss(made)


def a_causal_model(folder: Path, base: str, tied: bool) -> str:
    """The base with its head tied to the embeddings, or with one of its own."""
    config = AutoConfig.from_pretrained(base, tie_word_embeddings=tied)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([1.0, 1.0, 1.0], [3, 4, 5, 6, 7]),
        ([1.0, 0.0, 1.0], [3, 4]),  # nothing behind the first wrong step
        ([0.4, 1.0, 1.0], []),
        ([0.9, None, 0.6], [3, 4, 7]),  # an unjudged step is not known to be right
        ([1.0, 1.0], [3, 4, 5, 6]),
    ],
)
def test_the_tokens_of_right_steps(targets: list[float | None], expected: list[int]) -> None:
    assert right_tokens(SolutionTokens(ids=[9] * 8, ends=[4, 6, 7], start=3), targets) == expected


def test_the_first_token_of_a_text_has_nothing_that_predicts_it() -> None:
    assert right_tokens(SolutionTokens(ids=[9] * 2, ends=[1], start=0), [1.0]) == [1]


def test_the_loss_equals_plain_cross_entropy_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, targets, weights = torch.randn(11, 4), torch.randint(11, (9,)), torch.rand(9)
    grads = []
    for size in (2048, 4, 1):
        monkeypatch.setattr("reward_models.losses.TOKENS_AT_A_TIME", size)
        states = torch.linspace(-1, 1, 36).reshape(9, 4).requires_grad_()
        loss = next_token_loss(states, head, targets, weights)
        expected = (F.cross_entropy(states @ head.T, targets, reduction="none") * weights).sum()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        grads.append(torch.autograd.grad(loss, states)[0])
        assert torch.allclose(grads[-1], torch.autograd.grad(expected, states)[0], atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_what_the_causal_model_says_of_the_right_steps(tmp_path: Path, base: str, tied: bool) -> None:
    """The oracle: the causal model itself on prompt and right steps, one solution at a time."""
    path = a_causal_model(tmp_path / "causal", base, tied)
    causal = AutoModelForCausalLM.from_pretrained(path)
    with_words = trainer(path, tmp_path, lm_coef=0.3)
    added = loss_of_words(with_words)
    expected = torch.zeros(())
    for record, right in zip(SOLUTIONS, (2, 0, 1, 1), strict=True):
        if right == 0:
            continue
        prompt = with_words.format.render(record.instruction)
        text = prompt + "\n".join(record.steps[:right])
        encoding = with_words.tokenizer(text, return_offsets_mapping=True)
        start = next(i for i, (_, stop) in enumerate(encoding["offset_mapping"]) if stop > len(prompt))
        ids = torch.tensor(encoding["input_ids"])
        logits = causal(input_ids=ids[None]).logits[0]
        expected += F.cross_entropy(logits[start - 1 : -1], ids[start:], reduction="sum")
    assert added.item() == pytest.approx(0.3 * expected.item(), rel=1e-4)
    (0.3 * expected).backward()
    found = torch.autograd.grad(added, with_words.model.get_input_embeddings().weight)[0]
    assert torch.allclose(found, causal.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-5)


def test_loss_and_gradients_are_those_of_separate_rows(tmp_path: Path, base: str) -> None:
    found = []
    for per_row in (1, 2, 4):
        made = trainer(base, tmp_path, lm_coef=0.3, solutions_per_row=per_row)
        loss = summed_loss(made)
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in made.model.named_parameters()}))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for name, expected in found[0][1].items():
            assert torch.allclose(gradients[name], expected, rtol=1e-3, atol=1e-5), name


def test_of_an_instruction_every_token_counts_and_every_list_the_same(tmp_path: Path, base: str) -> None:
    """The oracle: the causal model's own mean over the tokens' sums of a list."""
    path = a_causal_model(tmp_path / "causal", base, tied=True)
    causal = AutoModelForCausalLM.from_pretrained(path)
    lists = [
        RankedInstructions(tiers=(("Ann has 2 pens and buys 3. How many?",), ("Ann has pens.", "How many?"))),
        RankedInstructions(tiers=(("Add 1 and 1.",), ("Add.",))),
    ]
    made = IRMTrainer(trained_head(path, "irm"), IRMConfig(output_dir=str(tmp_path), lm_coef=0.3, **QUICK), lists)
    expected = 0.0
    for record in lists:
        texts = [text for tier in record.tiers for text in tier]
        for text in texts:
            ids = torch.tensor(encode_instruction(text, made.tokenizer, made.format).ids)
            logits = causal(input_ids=ids[None]).logits[0]
            expected += F.cross_entropy(logits[:-1], ids[1:], reduction="sum").item() / len(texts)
    assert loss_of_words(made).item() == pytest.approx(0.3 * expected, rel=1e-4)


def test_a_batch_without_a_right_step_has_no_words_to_predict(tmp_path: Path, base: str) -> None:
    wrong = [SOLUTIONS[1]]
    assert torch.equal(
        summed_loss(trainer(base, tmp_path, wrong, lm_coef=0.3)), summed_loss(trainer(base, tmp_path, wrong))
    )


def test_training_lowers_the_loss_of_words_and_writes_a_plain_checkpoint(tmp_path: Path, base: str) -> None:
    data = summed_solutions(60, seed=0)
    base = a_causal_model(tmp_path / "causal", base, tied=True)
    config = {"learning_rate": 1e-2, "num_train_epochs": 6}
    words = []
    for coef in (0.0, 0.3):
        made = PRMTrainer(base, PRMConfig(output_dir=str(tmp_path / str(coef)), lm_coef=coef, **config, **QUICK), data)
        made.train()
        made.save_model()
        probe = trainer(base, tmp_path, data, lm_coef=1.0)
        probe.model.load_state_dict(made.model.state_dict())
        words.append(loss_of_words(probe).item())
    assert words[1] < 0.7 * words[0]
    _, report = AutoModelForTokenClassification.from_pretrained(tmp_path / "0.3", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_what_has_no_usable_language_head_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ValueError, match=r"lm_coef must be at least 0, got -0\.5"):
        PRMConfig(output_dir=str(tmp_path), lm_coef=-0.5, **QUICK)
    network = trained_head(base, "prm")
    network.save_pretrained(tmp_path / "judge")
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(tmp_path / "judge")
    with pytest.raises(ValueError, match=r"needs a language head, but .* has none: start from a causal"):
        trainer(str(tmp_path / "judge"), tmp_path, lm_coef=0.3)
    network.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="plain logits, but the model has final_logit_softcapping"):
        PRMTrainer(network, PRMConfig(output_dir=str(tmp_path), lm_coef=0.3, **QUICK), SOLUTIONS)


def test_sharded_weights_are_refused_before_a_step(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(base, tmp_path, lm_coef=0.3)
    made.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="use DDP or ZeRO-2, not FSDP"):
        summed_loss(made)
    monkeypatch.setattr("reward_models.language_head.deepspeed_integration.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="use ZeRO-2, or set lm_coef to 0"):
        LanguageHead(made.network)
