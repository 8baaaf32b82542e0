"""The dry run: checks, row counts, optimizer steps, memory."""

from pathlib import Path

import pytest
import yaml

from rleif.memory import GIB, KNOWN, Launch, activation_bytes, read_launch, shape_of, shape_of_config, training_bytes
from rleif.plan import plan
from rleif.settings import SettingsError, load_yaml
from rleif.tiny import TinyModel, tiny_config

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "configs"


def numbers(text, stage):
    """The words of a stage's line."""
    return next(line for line in text.splitlines() if line.startswith(stage)).split()


def test_the_symbolic_example_can_be_planned():
    text = plan(load_yaml(CONFIGS / "gsm8k_symbolic.yaml"))
    assert [line.split()[0] for line in text.splitlines()[3:13]] == [
        "evolve", "answers", "sft", "samples", "ranks", "steps", "irm", "prm", "ppo", "eval"
    ]  # fmt: skip


def test_the_gsm8k_example_can_be_planned_and_counts_the_rows_of_the_files(data_folder, monkeypatch):
    monkeypatch.setenv("RLEIF_DATA", str(data_folder))
    text = plan(load_yaml(CONFIGS / "gsm8k_file.yaml"))
    assert "7473 seeds, 0 evolutions tried, 1319 held out" in text


def test_the_paper_recipe_can_be_planned_without_a_gpu_or_a_network():
    text = plan(load_yaml(CONFIGS / "wizardmath_v3.yaml"))
    assert "8 processes, ZeRO-3" in text.splitlines()[0]
    assert "15000 seeds, 450000 evolutions tried" in text
    # 465,000 rows / (8 rows x 8 GPUs) = 7266 batches; / 8 accumulated = 909 a pass; x 3 passes
    assert numbers(text, "sft")[-2] == "2727"
    for stage in ("sft", "irm", "prm", "ppo"):
        assert float(numbers(text, stage)[-1]) < 74.5, "an 80 GB GPU holds 74.5 GiB"


def test_every_value_of_the_paper_recipe_has_its_source_or_a_reason():
    sources = ("v3", "section ", "eq. ", "table ", "the official repository", "PPO paper", "ours, because ")
    for line in (CONFIGS / "wizardmath_v3.yaml").read_text().splitlines():
        if line.startswith("  "):
            assert line.partition(" # ")[2].startswith(sources), line


def test_processes_that_cannot_share_a_batch_are_found_by_the_dry_run():
    content = load_yaml(CONFIGS / "wizardmath_v3.yaml")
    content["ppo"]["rollout_batch_size"] = 100
    with pytest.raises(SettingsError, match=r"ppo: 100 \(mini-batch\) cannot be shared evenly by 8 processes"):
        plan(content)


def test_an_instruction_reward_model_holds_a_whole_list_a_row_and_no_logits(tmp_path):
    content = load_yaml(CONFIGS / "wizardmath_v3.yaml")
    content["run"]["accelerate_config"] = None
    content["ranks"]["list_size"] = 5
    shape = KNOWN["mistralai/Mistral-7B-v0.1"]
    # 16 bytes a weight; 2 lists x 5 texts x 2048 tokens, each 4096 wide x (2 x 32 + 34) bytes and 8 for its score
    expected = 16 * shape.parameters + 10 * 2048 * 4096 * 98 + 10 * 2048 * 8
    assert numbers(plan(content), "irm")[-1] == f"{expected / GIB:.1f}"


def test_rows_of_several_solutions_and_the_language_head_are_counted(tmp_path):
    content = load_yaml(CONFIGS / "wizardmath_v3.yaml")
    content["run"]["accelerate_config"] = None
    assert numbers(plan(content), "prm")[-2] == "15188"  # 486000 solutions: 60750 batches of 8, 4 of them a step
    content["prm"] |= {"solutions_per_row": 4, "lm_coef": 0.1}
    text = plan(content)
    assert "<= 486000 solutions, up to 4 a row" in text
    assert numbers(text, "prm")[-2] == "3797"  # 121500 full rows: 15188 batches
    assert "its steps are those of full rows, 4 solutions each" in text
    shape = KNOWN["mistralai/Mistral-7B-v0.1"]
    # 8 rows x 4 solutions x 2048 tokens; the head in fp32, and the logits of 2048 tokens with their gradient
    expected = 16 * shape.parameters + 32 * 2048 * (4096 * 98 + 8) + 32000 * (4 * 4096 + 8 * 2048)
    assert numbers(text, "prm")[-1] == f"{expected / GIB:.1f}"


def test_optimizer_steps_are_those_that_the_trainer_takes(tmp_path):
    content = {
        "run": {"output_dir": str(tmp_path), "stages": ["evolve", "answers", "sft"]},
        "evolve": {"num_seeds": 10, "schedule": "wizardmath_v1"},
        "sft": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2},
    }
    text = plan(content)
    assert "10 seeds, 80 evolutions tried" in text
    assert "<= 90 rows" in text
    assert numbers(text, "sft")[-2] == "12"  # 90 rows: 12 batches of 8, 6 steps a pass, 2 passes


def test_an_unknown_key_is_found_by_the_dry_run(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'num_seeds'"):
        plan({"run": {"output_dir": str(tmp_path)}, "evolve": {"num_seed": 10}})


def test_a_dry_run_makes_nothing(tmp_path):
    plan({"run": {"output_dir": str(tmp_path / "r"), "stages": ["evolve"]}, "evolve": {"num_seeds": 10}})
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("launch", "bytes_a_parameter"),
    [
        (Launch(), 16.0),
        (Launch(processes=4, zero_stage=1), 2 + 2 + 12 / 4),
        (Launch(processes=4, zero_stage=2), 2 + 14 / 4),
        (Launch(processes=4, zero_stage=3), 16 / 4),
        (Launch(processes=4, zero_stage=3, offloads_optimizer=True), 4 / 4),
    ],
)
def test_training_memory_follows_the_zero_paper(launch, bytes_a_parameter):
    assert training_bytes(1000, launch) == 1000 * bytes_a_parameter


def test_sizes_come_from_the_configuration_without_loading_weights():
    sizes = TinyModel()
    assert shape_of_config(tiny_config(sizes)).parameters == sizes.parameter_count()


def test_the_known_models_are_what_their_configurations_make():
    """Mistral-7B-v0.1: 32 layers, width 4096, 14336 in the MLP, 8 key-value heads of 128."""
    from transformers import MistralConfig

    config = MistralConfig(vocab_size=32000, num_key_value_heads=8, intermediate_size=14336)
    assert shape_of_config(config) == KNOWN["mistralai/Mistral-7B-v0.1"]


def test_a_model_that_cannot_be_reached_is_noted_not_fatal(tmp_path):
    assert shape_of("nobody/nothing") is None
    (tmp_path / "a.jsonl").write_text('{"instruction": "1 + 1?", "solution": "2"}\n')
    sft = {"model": "nobody/nothing", "train_files": [str(tmp_path / "a.jsonl")]}
    text = plan({"run": {"output_dir": str(tmp_path / "r"), "stages": ["sft"]}, "sft": sft})
    assert "note: the size of 'nobody/nothing' is not known here" in text


def test_activations_shrink_when_they_are_recomputed():
    shape = KNOWN["mistralai/Mistral-7B-v0.1"]
    # 34 bytes x 32 layers x 2048 tokens x 4096 wide = 8.5 GiB a row; logits 8 x 2048 x 32000 = 0.49 GiB
    assert activation_bytes(shape, 1, 2048, recomputes=False) / GIB == pytest.approx(8.988, abs=1e-3)
    assert activation_bytes(shape, 1, 2048, recomputes=True) / GIB == pytest.approx(1.254, abs=1e-3)


def test_muon_beside_zero_is_told_before_anything_runs(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "1 + 1?", "solution": "2"}\n')
    run = {"output_dir": str(tmp_path / "r"), "stages": ["sft"]}
    run["accelerate_config"] = str(CONFIGS / "accelerate_zero3.yaml")
    sft = {"train_files": [str(tmp_path / "a.jsonl")], "muon_learning_rate": 1e-3}
    with pytest.raises(SettingsError, match="sft: muon_learning_rate needs whole matrices, which ZeRO-3 of run"):
        plan({"run": run, "sft": sft})


def test_a_launch_is_read_from_an_accelerate_config(tmp_path):
    content = yaml.safe_load((CONFIGS / "accelerate_zero3.yaml").read_text())
    assert content["distributed_type"] == "DEEPSPEED"
    assert read_launch(CONFIGS / "accelerate_zero3.yaml") == Launch(processes=8, zero_stage=3, offloads_optimizer=True)
    assert read_launch(None) == Launch()
