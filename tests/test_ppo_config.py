"""RLEIFConfig: names, derived sizes, and settings that contradict each other."""

import dataclasses

import pytest
from transformers import HfArgumentParser

from rleif.config import RLEIFConfig


def config(**settings):
    return RLEIFConfig(output_dir="unused", use_cpu=True, **settings)


def test_gradient_accumulation_is_derived():
    sizes = {"rollout_batch_size": 64, "num_generations": 4, "num_mini_batches": 2, "per_device_train_batch_size": 5}
    assert config(**sizes).gradient_accumulation_steps == 7  # ceil(32 / 5)
    assert config(**sizes, gradient_accumulation_steps=7).gradient_accumulation_steps == 7


def test_a_contradicting_accumulation_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps is 3, but rollout_batch_size 64 .* makes it 4"):
        config(rollout_batch_size=64, per_device_train_batch_size=16, gradient_accumulation_steps=3)


def test_processes_must_share_the_batch_evenly(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"64 \(mini-batch\) cannot be shared evenly by 3 processes"):
        config(rollout_batch_size=64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rollout_batch_size": 10, "num_generations": 4},
            "rollout_batch_size 10 is not a multiple of num_generations 4",
        ),
        (
            {"rollout_batch_size": 8, "num_mini_batches": 3},
            "rollout_batch_size 8 is not a multiple of num_mini_batches 3",
        ),
        ({"num_iterations": 3, "total_episodes": 100}, "'num_iterations': 3, 'total_episodes': 100.* give one of them"),
        ({"max_steps": 5, "num_ppo_epochs": 2}, r"max_steps 5 is not a multiple of the 2 optimizer steps"),
        ({"temperature": 0.0}, "temperature is 0.0; PPO needs samples"),
        ({"lam": 1.5}, r"lam is 1.5; it must lie in \[0, 1\]"),
        ({"top_p": 0.0}, r"top_p is 0.0"),
        ({"kl_coef": -1.0}, "kl_coef is -1.0; a negative one"),
        ({"aggregation": "sum"}, "aggregation is 'sum'; allowed: min, product, mean, last"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs is 0; it must be at least 1"),
        ({"max_completion_length": 8, "response_length": 9}, "is 8 and response_length is 9: two names of one setting"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_the_length_of_the_run():
    sizes = {"rollout_batch_size": 8, "num_generations": 2, "num_ppo_epochs": 2}
    assert config(**sizes, num_iterations=7).iterations(num_prompts=100) == 7
    assert config(**sizes, total_episodes=17).iterations(num_prompts=100) == 3  # ceil(17 / 8)
    assert config(**sizes, max_steps=10).iterations(num_prompts=100) == 5
    assert config(**sizes, num_train_epochs=2).iterations(num_prompts=11) == 4  # 2 passes of 11 // 4 iterations


def test_a_dataset_smaller_than_an_iteration_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="the dataset has 15 prompts, but one iteration takes 16"):
        config(rollout_batch_size=64, num_generations=4).iterations(num_prompts=15)


def test_trl_names_and_defaults():
    made = config(response_length=53, learning_rate=2e-6)
    assert made.max_completion_length == 53
    assert made.value_learning_rate == pytest.approx(2e-5)
    assert not made.bf16
    assert config().max_completion_length == 256
    assert made.report_to == []


def test_a_config_survives_its_own_dictionary():
    first = config(rollout_batch_size=64, num_mini_batches=2, response_length=9)
    names = {field.name for field in dataclasses.fields(RLEIFConfig) if field.init}
    again = RLEIFConfig(**{name: value for name, value in first.to_dict().items() if name in names})
    assert again.to_dict() == first.to_dict()


def test_every_setting_says_what_it_is_and_comes_from_the_command_line():
    base = {field.name for field in dataclasses.fields(RLEIFConfig.__mro__[1])}
    own = [field for field in dataclasses.fields(RLEIFConfig) if field.name not in base]
    assert len(own) > 20
    assert all(len(field.metadata.get("help", "")) > 20 for field in own)
    arguments = ["--output_dir", "x", "--use_cpu", "--kl_coef", "0.1", "--response_length", "7", "--shuffle_rewards"]
    (parsed,) = HfArgumentParser(RLEIFConfig).parse_args_into_dataclasses(arguments)
    assert (parsed.kl_coef, parsed.max_completion_length, parsed.shuffle_rewards) == (0.1, 7, True)
