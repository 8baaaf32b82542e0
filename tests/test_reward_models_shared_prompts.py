"""Several solutions of one problem in one row: the same scores and gradients as in rows of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reward_world import QUICK, summed_solutions, trained_head
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from reward_models.prm import PRMConfig, PRMTrainer
from reward_models.records import LabeledSolution
from reward_models.shared_prompts import branch_mask, common_length, join, share_prompts

ADD = "Ann has 2 pens and buys 3. How many pens does she have?"
SOLUTIONS = [
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 + 3 = 5", "The answer is: 5"), labels=(1, 1)),
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 + 3 = 6", "The answer is: 6"), labels=(-1, -1)),
    LabeledSolution(instruction="Add 1 and 1.", steps=("1 + 1 = 2",), labels=(1,)),
    LabeledSolution(instruction=ADD, steps=("Step 1: 2 * 3 = 6", "Step 2: 6 - 1 = 5", "5"), labels=(-1, -1, 1)),
]


def row(prompt: int, ids: list[int], positions: list[int], labels: list[float]) -> dict[str, Any]:
    return {"prompt": prompt, "input_ids": ids, "positions": positions, "labels": labels, "length": len(ids)}


def test_rows_of_a_prompt_are_joined_behind_what_they_share_and_no_more_than_asked_for() -> None:
    rows = [
        row(0, [5, 6, 7], [2], [1.0]),
        row(1, [9, 9], [1], [0.0]),
        row(0, [5, 6, 8, 4], [2, 3], [1.0, 0.0]),
        row(0, [5, 6, 7, 3], [3], [0.5]),
    ]
    joined = share_prompts(rows, 2)
    assert [one["input_ids"] for one in joined] == [[5, 6, 7, 8, 4], [5, 6, 7, 3], [9, 9]]
    # 5 6 are shared; 7 is the first branch, 8 4 the second, which starts again at position 2.
    assert joined[0]["position_ids"] == [0, 1, 2, 2, 3]
    assert joined[0]["branch"] == [0, 0, 1, 2, 2]
    assert joined[0]["positions"] == [2, 3, 4]
    assert joined[0]["labels"] == [1.0, 1.0, 0.0]
    assert joined[0]["length"] == 5


def test_a_row_that_another_begins_with_and_a_step_that_both_share_stay_what_they_are() -> None:
    joined = join([row(0, [5, 6, 7], [1, 2], [1.0, 0.0]), row(0, [5, 6, 7, 8], [1, 3], [1.0, 1.0])])
    assert joined["input_ids"] == [5, 6, 7, 8]
    assert joined["positions"] == [1, 2, 1, 3]
    assert common_length([[1, 2], [1, 2]]) == 2
    assert common_length([[1], [2]]) == 0


def test_a_token_sees_what_is_shared_and_its_own_branch_before_it() -> None:
    mask = branch_mask(torch.tensor([[0, 1, 2, 2, -1]]))
    assert mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 0, 0, 1],  # padding sees something, or its softmax would be 0 / 0
    ]


@pytest.fixture
def gpt2(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": len(tiny_tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).save_pretrained(
        tmp_path / "g"
    )
    tiny_tokenizer.save_pretrained(tmp_path / "g")
    return str(tmp_path / "g")


def trainer(path: str, folder: Path, attention: str, per_row: int) -> PRMTrainer:
    network = trained_head(path, "prm", attn_implementation=attention)
    config = PRMConfig(output_dir=str(folder), solutions_per_row=per_row, **QUICK)
    return PRMTrainer(network, config, SOLUTIONS, SOLUTIONS)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["base", "gpt2"])
def test_loss_and_gradients_are_those_of_separate_rows(
    tmp_path: Path, request: pytest.FixtureRequest, architecture: str, attention: str
) -> None:
    path = request.getfixturevalue(architecture)
    found = []
    for per_row in (1, 2, 4):
        made = trainer(path, tmp_path / str(per_row), attention, per_row)
        assert len(made.train_dataset) == {1: 4, 2: 3, 4: 2}[per_row]
        batch = made._collate([made.train_dataset[i] for i in range(len(made.train_dataset))])
        loss = made.compute_loss(made.model.eval(), batch)
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in made.model.named_parameters()}))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        for name, expected in found[0][1].items():
            assert torch.allclose(gradients[name], expected, rtol=1e-4, atol=1e-6), name
    assert all(gradient.abs().sum() > 0 for gradient in found[0][1].values())


def test_training_goes_on_in_shared_rows_and_the_held_out_metrics_are_of_single_solutions(
    tmp_path: Path, base: str
) -> None:
    data = summed_solutions(40, seed=0)
    config = PRMConfig(output_dir=str(tmp_path), solutions_per_row=4, learning_rate=3e-3, **QUICK)
    made = PRMTrainer(base, config, data, data)
    assert made.row_counts["train"]["used"] == 40
    assert len(made.train_dataset) == 10
    made.train()
    single = PRMTrainer(made.model, PRMConfig(output_dir=str(tmp_path), **QUICK), data, data)
    assert made.evaluate()["eval_loss"] == pytest.approx(single.evaluate()["eval_loss"], abs=1e-6)


def test_what_cannot_share_rows_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ValueError, match="solutions_per_row must be at least 1, got 0"):
        PRMConfig(output_dir=str(tmp_path), solutions_per_row=0, **QUICK)
    network = trained_head(base, "prm")
    network.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="needs attn_implementation sdpa or eager, but the model has 'flash_attention"):
        PRMTrainer(network, PRMConfig(output_dir=str(tmp_path), solutions_per_row=2, **QUICK), SOLUTIONS)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    windows = MistralConfig(vocab_size=400, num_key_value_heads=2, sliding_window=8, **sizes)
    MistralForCausalLM(windows).save_pretrained(tmp_path / "m")
    PreTrainedTokenizerFast.from_pretrained(base).save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match=r"MistralModel has sliding windows.*set solutions_per_row to 1"):
        PRMTrainer(str(tmp_path / "m"), PRMConfig(output_dir=str(tmp_path), solutions_per_row=2, **QUICK), SOLUTIONS)
