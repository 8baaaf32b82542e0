"""`muon_learning_rate`: Muon for the matrices of the layers, AdamW for the rest, behind one optimizer."""

import copy
from pathlib import Path

import pytest
import torch
from reward_world import QUICK, ranked_lists, summed_solutions
from torch import nn
from transformers import GPT2Config, GPT2Model

from reward_models.irm import IRMConfig, IRMTrainer
from reward_models.muon import MuonBeside, matrices_of_blocks
from reward_models.prm import PRMConfig, PRMTrainer
from rleif.sft import SFTConfig


def prm_trainer(base: str, folder: Path, **config: object) -> PRMTrainer:
    options = {**QUICK, "muon_learning_rate": 1e-2, "learning_rate": 1e-2, "prompt_template": "{instruction}"} | config
    return PRMTrainer(base, PRMConfig(output_dir=str(folder), **options), summed_solutions(200, seed=0))


def test_the_layers_matrices_go_to_muon_and_all_else_to_adamw(tmp_path: Path, base: str) -> None:
    made = prm_trainer(base, tmp_path, muon_learning_rate=0.02, weight_decay=0.1)
    optimizer = made.create_optimizer()
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    groups = [
        ({names[id(parameter)] for parameter in group["params"]}, group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    decayed, rest, matrices = groups
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in matrices[0]} == set(kinds)
    assert len(matrices[0]) == len(kinds) * made.model.config.num_hidden_layers
    assert matrices[1:] == (0.02, 0.1)
    assert optimizer.param_groups[2]["adjust_lr_fn"] == "match_rms_adamw"
    assert decayed == ({"model.embed_tokens.weight", "score.weight"}, 1e-2, 0.1)
    assert all("norm" in name or name.endswith("bias") for name in rest[0])
    assert rest[1:] == (1e-2, 0.0)
    assert sum(len(group[0]) for group in groups) == len(names)


def test_embeddings_inside_a_block_are_no_matrices_of_it() -> None:
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=11, n_positions=7))
    model.h[0].add_module("positions", nn.Embedding(3, 8))
    expected = [f"h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert matrices_of_blocks(model) == expected
    model.h[0].mlp.requires_grad_(False)
    assert matrices_of_blocks(model) == expected[:2]


def parts_of(network: nn.Module) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim == 2]
    rest = [parameter for parameter in network.parameters() if parameter.ndim != 2]
    return torch.optim.Muon(matrices, lr=0.1, weight_decay=0.01), torch.optim.AdamW(rest, lr=0.01)


def test_its_steps_are_those_of_both_parts_apart_also_after_a_saved_state() -> None:
    torch.manual_seed(0)
    together = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    apart = copy.deepcopy(together)
    data = torch.randn(6, 5, 4)

    def step(network: nn.Module, index: int, *optimizers: torch.optim.Optimizer) -> None:
        network.zero_grad()
        network(data[index]).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    def halved(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    both = MuonBeside(*parts_of(together))
    pair = parts_of(apart)
    schedules = [halved(both), *map(halved, pair)]
    for index in range(6):
        if index == 3:  # a new optimizer takes the state over, as it does when a run is resumed
            saved = copy.deepcopy(both.state_dict())
            both = MuonBeside(*parts_of(together))
            both.load_state_dict(saved)
            schedules[0] = torch.optim.lr_scheduler.StepLR(both, 2, gamma=0.5, last_epoch=index - 1)
        step(together, index, both)
        step(apart, index, *pair)
        for schedule in schedules:
            schedule.step()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, other)


def test_schedules_that_read_the_optimizers_own_rate_and_all_parameters_with_muon_work(
    tmp_path: Path, base: str
) -> None:
    made = prm_trainer(base, tmp_path, max_steps=2, lr_scheduler_type="polynomial")
    made.train()
    made = prm_trainer(base, tmp_path, max_steps=1)
    matrices = set(matrices_of_blocks(made.model))
    for name, parameter in made.model.named_parameters():
        parameter.requires_grad_(name in matrices)
    made.train()
    assert len(made.create_optimizer().param_groups) == 1


def test_the_logged_rate_is_adamws(tmp_path: Path, base: str) -> None:
    made = prm_trainer(
        base, tmp_path, max_steps=2, muon_learning_rate=0.5, learning_rate=1e-4, lr_scheduler_type="constant"
    )
    made.train()
    assert made._get_learning_rate() == 1e-4


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path, base: str) -> None:
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    prm_trainer(base, tmp_path, muon_learning_rate=None, **options).train()
    with pytest.raises(ValueError, match="belongs to a run with other muon_learning_rate"):
        prm_trainer(base, tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_an_interrupted_training_continues_to_the_same_weights(tmp_path: Path, base: str) -> None:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = prm_trainer(base, tmp_path / "whole", **options)
    whole.train()
    again = prm_trainer(base, tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, weight in again.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", ["irm", "prm"])
def test_both_reward_models_learn_with_it(tmp_path: Path, base: str, kind: str) -> None:
    options = {"muon_learning_rate": 2e-2, "learning_rate": 1e-2, "max_steps": 150, **QUICK}
    if kind == "irm":
        irm = IRMConfig(output_dir=str(tmp_path), **options)
        made = IRMTrainer(base, irm, ranked_lists(200, seed=0), ranked_lists(100, seed=1))
        measured = "eval_pair_accuracy"
    else:
        prm = PRMConfig(output_dir=str(tmp_path), prompt_template="{instruction}", **options)
        made = PRMTrainer(base, prm, summed_solutions(400, seed=0), summed_solutions(100, seed=1))
        measured = "eval_step_accuracy"
    made.train()
    assert made.evaluate()[measured] >= 0.85


def test_what_cannot_be_is_refused(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (IRMConfig, PRMConfig, SFTConfig):
        with pytest.raises(ValueError, match=r"muon_learning_rate must be above 0, got 0\.0; leave it out for AdamW"):
            config(output_dir=str(tmp_path), use_cpu=True, muon_learning_rate=0.0)
    with pytest.raises(ValueError, match="goes with optim adamw_torch or adamw_torch_fused, got sgd"):
        PRMConfig(output_dir=str(tmp_path), use_cpu=True, muon_learning_rate=0.1, optim="sgd")
    made = prm_trainer(base, tmp_path)
    made.optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"an optimizer of your own .* exclude each other"):
        made.create_optimizer()
    made = prm_trainer(base, tmp_path)
    made.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed and FSDP divide them: leave it out, or train with DDP"):
        made.create_optimizer()
    made.is_deepspeed_enabled = False
    made.model.model.layers.requires_grad_(False)
    with pytest.raises(ValueError, match="has no trained matrix in a numbered block"):
        made.create_optimizer()
