"""PPO as a whole against what must be true of it."""

import copy
import gc

import pytest
import torch
from ppo_world import (
    EOS_ID,
    LETTERS,
    ScriptedIRM,
    ScriptedPRM,
    StepAtEachC,
    letter_gpt2,
    letter_model,
    letter_tokenizer,
    logged,
    make_trainer,
    share_of_c,
    weights,
)
from reward_world import saved

from rleif.policy_value import value_head
from rleif.ppo_batch import mini_batch_indices, split_micro_batches

C_ID = 2 + LETTERS.index("c")
BANDIT = {
    "train_dataset": [{"prompt": "a"}],
    "max_completion_length": 1,
    "missing_eos_penalty": None,
    "rollout_batch_size": 64,
    "num_generations": 64,
    "per_device_train_batch_size": 64,
    "num_mini_batches": 1,
    "num_logged_completions": 0,
    "logging_strategy": "no",
}


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Each Trainer.train starts with a full garbage collection; what was loaded before need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def letter_probabilities(model):
    with torch.no_grad():
        return model(torch.tensor([[2]])).logits[0, -1].double().softmax(-1)


def chance_of_c_after_training(folder, seed, reward):
    model = letter_model(seed)
    settings = {**BANDIT, "seed": seed, "num_iterations": 25, "kl_coef": 0.0, "learning_rate": 4e-2}
    make_trainer(folder, model, prm=ScriptedPRM(reward), **settings).train()
    return letter_probabilities(model)[2 + LETTERS.index("c")].item()


@pytest.mark.parametrize("seed", range(10))
def test_the_policy_finds_the_one_rewarded_token(tmp_path, seed):
    assert chance_of_c_after_training(tmp_path, seed, lambda text: 0.9 if text == "c" else 0.1) > 0.99


@pytest.mark.parametrize("seed", range(2))
def test_with_the_reward_reversed_the_policy_shuns_it(tmp_path, seed):
    assert chance_of_c_after_training(tmp_path, seed, lambda text: 0.1 if text == "c" else 0.9) < 0.01


def test_with_a_kl_penalty_the_policy_becomes_the_reference_tilted_by_the_reward(tmp_path):
    # The maximum of E[r] - beta KL(pi, ref) is pi proportional to ref exp(r / beta).
    reward = {letter: 0.1 * number for number, letter in enumerate(LETTERS)}
    model, beta = letter_model(), 0.3
    reference = letter_probabilities(model)
    per_token = torch.tensor([reward.get(w, 0.0) for w in ["<pad>", "<eos>", *LETTERS]]).double()
    optimum = reference * (per_token / beta).exp()
    optimum /= optimum.sum()
    settings = BANDIT | {"rollout_batch_size": 256, "num_generations": 256, "per_device_train_batch_size": 256}
    settings |= {"num_iterations": 80, "kl_coef": beta, "learning_rate": 2e-2, "lr_scheduler_type": "linear"}
    settings |= {"whiten_advantages": False, "lam": 1.0}
    make_trainer(tmp_path, model, prm=ScriptedPRM(lambda text: reward.get(text, 0.0)), **settings).train()
    assert 0.5 * (letter_probabilities(model) - optimum).abs().sum().item() <= 0.02
    assert 0.5 * (reference - optimum).abs().sum().item() > 0.2  # the test would see a policy that did not move


def test_at_step_0_the_kl_to_the_reference_is_exactly_0(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    assert logged(trainer, "objective/kl")[0] == 0.0
    assert logged(trainer, "objective/kl")[1] != 0.0


def test_in_the_first_mini_batch_the_ratio_is_1(tmp_path):
    trainer = make_trainer(tmp_path, num_ppo_epochs=2, num_iterations=1, per_device_train_batch_size=3)
    trainer.train()
    ratio, clipped, kl = (logged(trainer, f"policy/{name}") for name in ("ratio", "clipfrac_avg", "approxkl_avg"))
    assert len(ratio) == 4  # 2 epochs of 2 mini-batches
    assert ratio[0] == pytest.approx(1.0, abs=1e-6)
    assert (clipped[0], kl[0]) == (0.0, pytest.approx(0.0, abs=1e-12))
    assert all(abs(r - 1.0) > 1e-4 for r in ratio[1:])


@pytest.mark.parametrize("make_model", [letter_model, letter_gpt2])  # GPT-2 has dropout: sampling goes without
def test_engine_and_trainer_agree_on_log_probs(tmp_path, make_model):
    trainer = make_trainer(tmp_path, make_model(), temperature=0.7)
    trainer.train()
    assert max(logged(trainer, "rollout/logprob_difference_max")) <= 1e-5


@pytest.mark.parametrize("placement", ["outcome", "step"])
def test_rewards_land_on_the_token_that_earns_them(tmp_path, placement):
    """r_q = 0.8, each step 0.5, minimum: r = 0.4; without a step r = 0. Not to finish costs 1, at the last token.

    By step: the first step brings the minimum from 1 to 0.5, so its token gets 0.8 * -0.5 = -0.4, and the last token
    what is left of r - 0.8: nothing after a step, -0.8 without one.
    """
    settings = {"placement": placement, "kl_coef": 0.0, "gamma": 1.0, "lam": 1.0, "whiten_advantages": False}
    models = {"irm": ScriptedIRM(lambda text: 0.8), "prm": StepAtEachC(0.5)}
    made = make_trainer(tmp_path, **models, **settings, missing_eos_penalty=1.0).maker.make(0, 0).experience
    seen = set()
    for row, returns in enumerate(made.returns):  # the critic says 0, so a return is what is still to come
        start, length = int(made.prompt_lengths[row]), int(made.response_lengths[row])
        response = made.input_ids[row, start : start + length].tolist()
        has_eos, first_c = response[-1] == EOS_ID, response.index(C_ID) if C_ID in response else None
        expected = [0.0] * len(returns)
        if placement == "step" and first_c is not None:
            expected[first_c] -= 0.4
        else:
            expected[length - 1] += (0.0 if placement == "outcome" else -0.8) if first_c is None else 0.4
        expected[length - 1] -= 0.0 if has_eos else 1.0
        following = torch.cat([returns[1:], torch.zeros(1)])
        assert (returns - following).tolist() == pytest.approx(expected, abs=1e-6)
        seen.add((has_eos, length == 6, first_c is not None))
    assert {(True, False, True), (True, False, False), (False, True, True)} <= seen


def step_gradient(folder, model, micro_batch, mini_batch=0):
    """The gradient of one optimizer step, through the trainer's own methods."""
    trainer = make_trainer(folder, copy.deepcopy(model), per_device_train_batch_size=micro_batch, entropy_coef=0.01)
    for _ in range(mini_batch + 1):
        parts, count = trainer.get_batch_samples(
            iter(()), trainer.args.gradient_accumulation_steps, torch.device("cpu")
        )
        trainer.state.global_step += 1
    torch.nn.init.normal_(value_head(trainer.model.value).weight, generator=torch.Generator().manual_seed(0))
    for part in parts:
        trainer.training_step(trainer.model, part, count)
    return torch.cat([p.grad.flatten().double() for p in trainer.model.parameters()])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_the_gradient_does_not_depend_on_the_micro_batches(tmp_path, dtype, tolerance, micro_batch):
    # GPT-2, because Llama's norm computes in fp32 whatever the weights are.
    model = letter_model() if dtype == torch.float32 else letter_gpt2().double()
    whole, split = step_gradient(tmp_path, model, 8), step_gradient(tmp_path, model, micro_batch)
    assert whole.norm() > 1e-3
    assert (whole - split).norm() / whole.norm() <= tolerance


@pytest.mark.parametrize("processes", [2, 4])
def test_the_gradient_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch, processes):
    model, parts_each = letter_model(), 2
    whole = step_gradient(tmp_path, model, 8)
    trainer = make_trainer(tmp_path, copy.deepcopy(model), per_device_train_batch_size=8, entropy_coef=0.01)
    _, count = trainer.get_batch_samples(iter(()), 1, torch.device("cpu"))
    torch.nn.init.normal_(value_head(trainer.model.value).weight, generator=torch.Generator().manual_seed(0))
    samples, sizes = trainer._experience, (16, trainer.args.num_mini_batches, trainer.args.num_generations)
    chosen = mini_batch_indices(trainer.args.seed, 0, 0, 0, *sizes)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", processes)
    gradients = []
    for process in range(processes):
        trainer.model.zero_grad()
        for part in split_micro_batches(samples, chosen, parts_each, process, processes):
            trainer.training_step(trainer.model, samples.rows(part), count)
        gradients.append(torch.cat([p.grad.flatten().double() for p in trainer.model.parameters()]))
    mean = sum(gradients) / processes  # as DDP has it
    assert (gradients[0] - mean).norm() / mean.norm() > 0.1  # the shares differ, so something had to be put together
    assert (whole - mean).norm() / whole.norm() <= 1e-5


def test_over_50_steps_the_split_leaves_no_one_sided_difference(tmp_path):
    runs = []
    for micro_batch in (4, 1):
        sizes = {"rollout_batch_size": 8, "num_iterations": 25, "per_device_train_batch_size": micro_batch}
        trainer = make_trainer(tmp_path, learning_rate=1e-3, max_completion_length=3, **sizes)
        trainer.train()
        runs.append(torch.tensor(logged(trainer, "loss"), dtype=torch.float64))
    assert len(runs[0]) == 50
    assert (runs[0] - runs[1]).mean().abs() <= 1e-7


def tensors_of(module):
    """Parameters and buffers, those too that are not saved (rotary frequencies, causal masks)."""
    return {name: t.clone() for name, t in [*module.named_parameters(), *module.named_buffers()]}


def test_reference_and_reward_models_are_not_changed_by_training(tmp_path):
    start = str(tmp_path / "start")
    letter_gpt2().save_pretrained(start)  # which has dropout
    letter_tokenizer().save_pretrained(start)
    irm = saved(start, tmp_path / "irm", "irm")
    prm = saved(start, tmp_path / "prm", "prm", prompt_template="{instruction} ")
    trainer = make_trainer(tmp_path / "run", start, irm=irm, prm=prm)
    frozen = (trainer.ref_model, trainer.scorer.irm.irm.model, trainer.scorer.prm.model)
    before, policy = [tensors_of(module) for module in frozen], weights(trainer.model.policy)
    assert any(name.endswith("attn.bias") for name in before[0])
    trainer.train()
    assert not torch.equal(policy, weights(trainer.model.policy))
    assert len(set(logged(trainer, "objective/prm"))) == 2
    assert logged(trainer, "objective/kl")[0] == 0.0  # dropout in either of them would be seen
    for module, kept in zip(frozen, before, strict=True):
        assert all(torch.equal(t, kept[name]) for name, t in tensors_of(module).items())
        assert not module.training
        assert all(not p.requires_grad and p.grad is None for p in module.parameters())


def test_without_a_kl_penalty_there_is_no_reference_and_no_pass_through_it(tmp_path):
    trainer = make_trainer(tmp_path, kl_coef=0.0)
    assert trainer.ref_model is None
    trainer.train()
    assert not logged(trainer, "objective/kl")


def test_equal_rewards_move_nothing_and_give_no_nan(tmp_path):
    settings = {"prm": ScriptedPRM(lambda text: 0.5), "missing_eos_penalty": None, "kl_coef": 0.0, "lam": 1.0}
    model = letter_model()
    before = weights(model)
    trainer = make_trainer(tmp_path, model, num_iterations=1, num_mini_batches=1, **settings)
    trainer.train()
    assert torch.equal(weights(model), before)
    assert logged(trainer, "loss/policy") == [0.0]
    assert weights(trainer.model).isfinite().all()


def test_learning_from_letters_raises_the_reward_and_shuffled_rewards_do_not(tmp_path):
    gains, sizes = {}, {"rollout_batch_size": 64, "num_generations": 8, "per_device_train_batch_size": 32}
    for shuffled in (False, True):
        settings = {"num_iterations": 15, "shuffle_rewards": shuffled, "missing_eos_penalty": None, "kl_coef": 0.0}
        trainer = make_trainer(tmp_path, **settings, **sizes)
        trainer.train()
        scores = logged(trainer, "objective/prm")
        gains[shuffled] = sum(scores[-3:]) / 3 - scores[0]
    assert gains[False] > 0.4
    assert gains[True] < 0.15


def test_two_critics_learn_at_their_own_rate(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=0.0, value_learning_rate=1e-2)
    policy, value = weights(trainer.model.policy), weights(trainer.model.value)
    trainer.train()
    assert torch.equal(policy, weights(trainer.model.policy))
    assert not torch.equal(value, weights(trainer.model.value))


def test_in_the_warm_up_of_the_critic_the_policy_stands_still(tmp_path):
    trainer = make_trainer(tmp_path, value_warmup_iterations=1, num_iterations=1)
    policy, value = weights(trainer.model.policy), weights(trainer.model.value)
    trainer.train()
    assert torch.equal(policy, weights(trainer.model.policy))
    assert not torch.equal(value, weights(trainer.model.value))


def test_share_of_c_is_what_the_tests_think_it_is():
    assert share_of_c("c a c") == pytest.approx(1 / 3)
    assert letter_tokenizer()("a c")["input_ids"] == [2, 4]
