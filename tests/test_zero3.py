"""ZeRO-3 without DeepSpeed: what is loaded whole, and that no process uses a layer more often than the others."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
import torch
from ppo_world import letter_model, letter_tokenizer, make_config
from reward_world import saved
from transformers.integrations import deepspeed as integration

from reward_models.backbone import loaded_whole
from reward_models.prm import ProcessRewardModel
from rleif import policy_value
from rleif.policy_value import response_logprobs
from rleif.ppo_models import load_models
from rleif.zero3 import whole_policy


class Config:
    """What transformers asks when it decides whether to load slices."""

    config: dict = {}  # noqa: RUF012

    def is_zero3(self):
        return True


@pytest.fixture
def zero3():
    config = Config()
    integration.set_hf_deepspeed_config(config)
    yield config
    integration.unset_hf_deepspeed_config()


def test_weights_are_loaded_whole_within_and_in_slices_again_after(zero3):
    with loaded_whole():
        assert not integration.is_deepspeed_zero3_enabled()
    assert integration.is_deepspeed_zero3_enabled()


def test_a_frozen_reward_model_is_whole_on_every_process(base, tmp_path, request):
    path = saved(base, tmp_path / "prm", "prm")
    request.getfixturevalue("zero3")
    assert ProcessRewardModel.from_pretrained(path).score_steps(["1 + 1?"], ["1 + 1 = 2"])[0].scores


def test_policy_critic_and_reference_start_whole(tmp_path, zero3):
    letter_model().save_pretrained(tmp_path / "start")
    models = load_models(str(tmp_path / "start"), None, None, None, letter_tokenizer(), make_config(tmp_path))
    for model in (models.policy, models.value, models.reference):
        assert all(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_the_output_matrix_is_used_as_often_as_the_processes_agree_on(tiny_model, monkeypatch, tokens):
    is_response = torch.zeros(2, 4, dtype=torch.bool)
    is_response.view(-1)[:tokens] = True
    batch = {"input_ids": torch.arange(12).view(2, 6), "prompt_lengths": torch.tensor([2, 2])}
    expected, _ = response_logprobs(tiny_model, **batch, is_response=is_response, temperature=1.0)
    uses, asked = [], []
    tiny_model.lm_head.register_forward_hook(lambda *_: uses.append(1))
    monkeypatch.setattr(policy_value, "LOGIT_BUDGET", 2 * tiny_model.config.vocab_size)  # two tokens a chunk

    def agree(count):
        asked.append(count)
        return 5

    found, _ = response_logprobs(
        tiny_model, **batch, is_response=is_response, temperature=1.0, agree_on_chunks=agree
    )  # fmt: skip
    assert (len(uses), asked) == (5, [(tokens + 1) // 2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_sliced_policy_is_gathered_to_sample_and_a_whole_one_is_left_alone(monkeypatch):
    gathered = []

    @contextlib.contextmanager
    def gather(parameters):
        gathered.append(len(parameters))
        yield
        gathered.append(0)

    zero = SimpleNamespace(GatheredParameters=gather)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=zero))
    policy, engine = torch.nn.Linear(2, 2), SimpleNamespace()
    with whole_policy(policy, engine):
        assert gathered == []
    for number, parameter in enumerate(policy.parameters()):
        parameter.ds_id = number  # DeepSpeed's mark of a weight in slices
    with whole_policy(policy, engine):
        assert gathered == [2]
    assert gathered == [2, 0]
