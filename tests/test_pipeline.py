"""`rleif run`: all stages end to end, done stages skipped, changed configurations refused, interruption survived."""

import copy
import json
import os
import socket
import subprocess
import sys

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from rleif.pipeline.lock import LOCK_FILE, RunLockedError, locked
from rleif.pipeline.resolve import dependents, resolve
from rleif.pipeline.runner import ConfigChangedError, run
from rleif.pipeline.stages import NAMES, STAGES
from rleif.pipeline.state import changes, hash_path
from rleif.settings import SettingsError, field_types

QUIET = {"progress": False}
TRAINING = {"per_device_train_batch_size": 8, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}


def small(folder, **run_values):
    """A configuration of all stages that takes seconds."""
    return {
        "run": {"output_dir": str(folder), "seed": 1, "threads": 1, **run_values},
        "evolve": {"num_seeds": 16, "num_heldout": 6, "max_steps": 2, "heldout_max_steps": 2, **QUIET},
        "answers": dict(QUIET),
        "sft": {
            "hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2,
            "vocab_size": 320, "max_steps": 4, "learning_rate": 1e-3, **TRAINING,
        },
        "samples": {"num_problems": 4, "num_generations": 2, "max_new_tokens": 12, **QUIET},
        "ranks": {"heldout_fraction": 0.4, **QUIET},
        "steps": {"heldout_fraction": 0.4, "max_problems": 12, "corruptions_per_problem": 1, **QUIET},
        "irm": {"max_steps": 2, **TRAINING},
        "prm": {"max_steps": 2, **TRAINING},
        "ppo": {
            "num_iterations": 2, "rollout_batch_size": 8, "num_generations": 2, "max_completion_length": 12,
            **TRAINING,
        },
        "eval": {"num_samples": 8, "max_new_tokens": 12, **QUIET},
    }  # fmt: skip


@pytest.fixture(scope="module")
def done_run(tmp_path_factory):
    """A finished run: its configuration, folder, results and what was said."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    config, said = small(folder), []
    results = run(config, say=said.append)
    return config, folder, results, said


def test_all_stages_run_and_results_have_the_stated_shape(done_run):
    _, folder, results, said = done_run
    for name in ("sft", "ppo"):
        assert {"pass1_greedy", "pass1_sampled", "maj8", "prm_best_of_8", "n"} <= results[name].keys()
        assert results[name]["n"] == 6
    assert 0 <= results["irm"]["pair_accuracy"] <= 1
    assert {"step_accuracy", "first_error_f1"} == results["prm"].keys()
    assert {*NAMES, "total"} == results["seconds"].keys()
    assert {"torch", "transformers", "trl", "python"} <= results["versions"].keys()
    assert results["seed"] == 1
    assert "commit" in results
    assert json.loads((folder / "results.json").read_text()) == results
    table = said[-2]
    assert "pass1_greedy" in table
    assert "ppo - sft, same problems" in table
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "ppo_steps.png", "evolution_steps.png", "accuracy_by_difficulty.png"
    }  # fmt: skip
    assert "## Greedy completions before and after" in (folder / "report.md").read_text()


def test_every_checkpoint_is_safetensors_with_its_tokenizer(done_run):
    _, folder, _, _ = done_run
    for name in ("sft", "irm", "prm", "ppo"):
        assert (folder / name / "model.safetensors").is_file()
        assert (folder / name / "tokenizer.json").is_file()


def test_done_stages_are_not_run_again(done_run):
    config, folder, results, _ = done_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    said = []
    again = run(config, say=said.append)
    assert sum("done before" in text for text in said) == len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert again == results


def test_a_changed_configuration_is_refused_and_every_changed_key_named(done_run):
    config, _, _, _ = done_run
    changed = copy.deepcopy(config)
    changed["ppo"]["kl_coef"] = 0.1
    changed["eval"]["max_new_tokens"] = 10
    with pytest.raises(ConfigChangedError) as error:
        run(changed, say=lambda text: None)
    assert "ppo.kl_coef was its default, is now 0.1" in str(error.value)
    assert "eval.max_new_tokens was 12, is now 10" in str(error.value)
    assert "--force ppo" in str(error.value)


def test_a_key_without_effect_on_results_may_change(done_run):
    config, _, _, _ = done_run
    changed = copy.deepcopy(config)
    changed["ppo"]["logging_steps"] = 5
    changed["evolve"]["progress"] = True
    said = []
    run(changed, say=said.append)
    assert sum("done before" in text for text in said) == len(NAMES)


def test_a_forced_stage_runs_again_with_what_depends_on_it(done_run):
    config, _, _, _ = done_run
    changed = copy.deepcopy(config)
    changed["eval"]["max_new_tokens"] = 10
    said = []
    run(changed, force=["eval"], say=said.append)
    assert sum("done before" in text for text in said) == len(NAMES) - 1
    run(config, restart_from="eval", say=said.append)


def test_what_depends_on_a_stage_is_read_off_the_files(tmp_path):
    _, jobs = resolve(small(tmp_path))
    assert dependents("sft", jobs) == ["sft", "samples", "steps", "irm", "prm", "ppo", "eval"]
    assert dependents("ranks", jobs) == ["ranks", "irm", "ppo", "eval"]
    assert dependents("eval", jobs) == ["eval"]
    assert dependents("evolve", jobs) == list(NAMES)


def test_a_stage_whose_input_file_was_edited_is_refused(tmp_path):
    config = small(tmp_path / "r", stages=["evolve", "answers"])
    run(config, say=lambda text: None)
    pool = tmp_path / "r/evolve/pool.jsonl"
    pool.write_text("".join(pool.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ConfigChangedError, match=r"'answers' was done with other input files: evolve/pool.jsonl was"):
        run(config, say=lambda text: None)


def test_a_half_made_output_is_replaced(tmp_path):
    config = small(tmp_path / "r", stages=["evolve", "answers"])
    run(config, say=lambda text: None)
    good = (tmp_path / "r/label/answers.jsonl").read_text()
    (tmp_path / "r/state/answers.json").unlink()
    (tmp_path / "r/label/answers.jsonl").write_text(good[:100])
    run(config, say=lambda text: None)
    assert (tmp_path / "r/label/answers.jsonl").read_text() == good


def test_a_stage_whose_output_was_deleted_runs_again(tmp_path):
    config = small(tmp_path / "r", stages=["evolve", "answers"])
    run(config, say=lambda text: None)
    (tmp_path / "r/label/answers.jsonl").unlink()
    said = []
    run(config, say=said.append)
    assert any(text.startswith("[1/2] evolve: done before") for text in said)
    assert (tmp_path / "r/label/answers.jsonl").is_file()


class Watch(TrainerCallback):
    """Counts optimizer steps, and presses Ctrl-C at one of them."""

    def __init__(self, stop_at=None):
        self.steps, self.stop_at = [], stop_at

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)
        if state.global_step == self.stop_at:
            raise KeyboardInterrupt


def test_an_interrupted_training_continues_from_its_checkpoint(tmp_path, monkeypatch):
    """Ctrl-C in the middle of SFT; the same command continues and ends with the weights of the run left alone."""
    stages = ["evolve", "answers", "sft"]
    config, whole = (small(tmp_path / name, stages=stages) for name in ("cut", "whole"))
    for one in (config, whole):
        one["sft"] |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    init, first, second = SFTTrainer.__init__, Watch(stop_at=3), Watch()

    def watched(watch):
        return lambda self, *args, **kwargs: init(self, *args, **kwargs | {"callbacks": [watch]})

    run(whole, say=lambda text: None)
    monkeypatch.setattr(SFTTrainer, "__init__", watched(first))
    with pytest.raises(KeyboardInterrupt):
        run(config, say=lambda text: None)
    assert not (tmp_path / "cut" / LOCK_FILE).exists()
    monkeypatch.setattr(SFTTrainer, "__init__", watched(second))
    said = []
    run(config, say=said.append)
    assert any(text.startswith("[2/3] answers: done before") for text in said)
    assert (first.steps, second.steps) == ([1, 2, 3], [3, 4])
    assert hash_path(tmp_path / "cut/sft/model.safetensors") == hash_path(tmp_path / "whole/sft/model.safetensors")


def test_a_directory_in_use_by_another_run_is_refused_and_the_holder_named(tmp_path):
    with locked(tmp_path):
        with (
            pytest.raises(RunLockedError, match=rf"in use by another run \(process {os.getpid()} on "),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"pid": gone.pid, "host": socket.gethostname(), "started": 1.0}
    (tmp_path / LOCK_FILE).write_text(json.dumps(holder))
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_reused_process_number_does_not_hold_the_lock(tmp_path):
    started = psutil.Process().create_time() - 1000
    (tmp_path / LOCK_FILE).write_text(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})
    )
    with locked(tmp_path):
        pass


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 1.0}))
    with pytest.raises(RunLockedError, match="process 1 on elsewhere"), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("sfd", {}, "unknown section 'sfd'; did you mean 'sft'?"),
        ("ppo", {"learning_rat": 1.0}, "unknown key in section 'ppo': 'learning_rat'; did you mean 'learning_rate'?"),
        ("sft", {"output_dir": "x"}, "sft.output_dir is decided by the run; set run.output_dir instead"),
        ("eval", {"num_samples": "many"}, "eval.num_samples is 'many' (text); expected a whole number"),
        ("run", {"output_dir": "x", "stages": ["sft", "rl"]}, "unknown stage 'rl'"),
        ("irm", [1], "section 'irm' must be a mapping"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told_before_anything_runs(tmp_path, section, values, words):
    config = small(tmp_path / "r") | {section: values}
    with pytest.raises(SettingsError) as error:
        run(config, say=lambda text: None)
    assert words in str(error.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "name",
    ["answers.max_problems", "answers.concurrency", "sft.max_rows", "samples.num_problems", "ranks.max_lists",
     "steps.max_problems", "ppo.max_rows", "ppo.max_eval_rows", "ppo.lora_rank", "eval.max_problems"],
)  # fmt: skip
def test_a_limit_below_one_is_refused_before_anything_runs(tmp_path, name, value):
    section, key = name.split(".")
    config = small(tmp_path / "r")
    config[section][key] = value
    with pytest.raises(SettingsError, match=rf"{section}: {key} must be at least 1, got {value}"):
        run(config, say=lambda text: None)
    assert not (tmp_path / "r").exists()


def test_a_launch_that_cannot_be_read_is_told_before_anything_runs(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: no such configuration file"):
        run(small(tmp_path / "r", accelerate_config=str(tmp_path / "none.yaml")), say=lambda text: None)
    assert not (tmp_path / "r").exists()


def test_what_a_stage_that_is_left_out_would_make_is_not_asked_for(tmp_path):
    _, jobs = resolve(small(tmp_path, stages=["evolve", "answers", "sft", "steps", "prm", "ppo", "eval"]))
    values = {job.stage.name: job.values for job in jobs}
    assert "irm" not in values["ppo"]
    assert values["ppo"]["prm"] == str(tmp_path / "prm")
    assert "samples" not in values["steps"]


def test_every_stage_in_the_table_names_keys_that_exist():
    for stage in STAGES:
        _, kinds = stage.load()
        known = field_types(kinds)
        assert {*stage.decided, *stage.defaults, *stage.reads} <= known.keys(), stage.name


def test_the_saved_configuration_is_the_one_given(done_run):
    config, folder, _, _ = done_run
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config


def test_changes_are_named_in_words():
    assert changes({"a": 1, "b": [1]}, {"b": (1,), "c": "x"}) == [
        "a was 1, is now its default", 'c was its default, is now "x"'
    ]  # fmt: skip


@pytest.fixture
def offline_wandb(tmp_path, monkeypatch):
    """wandb writes to tmp_path; it reads the environment once per process, so it is taken down before and after."""
    import wandb

    wandb.teardown()
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    yield wandb
    wandb.teardown()


def test_ppo_logs_to_wandb_offline_with_its_completions_as_a_table(done_run, tmp_path, offline_wandb):
    from rleif.config import RLEIFConfig
    from rleif.pipeline.ppo import PPOArguments, train_ppo

    _, folder, _, _ = done_run
    arguments = PPOArguments(
        model=str(folder / "sft"),
        prm=str(folder / "prm"),
        train_file=str(folder / "evolve/pool.jsonl"),
        eval_file=str(folder / "heldout.jsonl"),
    )
    values = {"num_iterations": 1, "rollout_batch_size": 4, "num_generations": 2, "max_completion_length": 8}
    config = RLEIFConfig(output_dir=str(tmp_path / "ppo"), report_to="wandb", use_cpu=True, **values, **TRAINING)
    metrics = train_ppo(arguments, config)
    offline_wandb.finish()
    assert metrics["optimizer_steps"] == 1
    assert "eval_reward" in metrics
    tables = list((tmp_path / "wandb").rglob("media/table/completions_*.table.json"))
    assert len(tables) == 1
    assert "completion" in json.loads(tables[0].read_text())["columns"]


def test_each_stage_is_a_run_of_its_own_in_wandb(done_run, tmp_path, offline_wandb):
    _, done, *_ = done_run
    config = ppo_only(tmp_path / "r", done, report_to="wandb")
    config["run"]["stages"] = ["prm", "ppo"]
    files = {"train_file": str(done / "label/stepped.jsonl"), "eval_file": str(done / "label/stepped_heldout.jsonl")}
    config["prm"] = {"model": str(done / "sft"), **files, **small(tmp_path)["prm"], "report_to": "wandb"}
    config["ppo"].pop("prm")
    run(config, say=lambda text: None)
    assert offline_wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def ppo_only(folder, done, **ppo):
    """A configuration of PPO alone, on the models of a finished run."""
    made = {name: str(done / name) for name in ("irm", "prm")}
    made |= {"model": str(done / "sft"), "train_file": str(done / "evolve/pool.jsonl")}
    config = small(folder, stages=["ppo"])
    return {"run": config["run"], "ppo": config["ppo"] | made | ppo}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_a_lora_policy_is_an_adapter_that_the_evaluation_loads(done_run, tmp_path):
    _, done, *_ = done_run
    config = ppo_only(tmp_path / "lora", done, lora_rank=2, learning_rate=0.1)
    config["run"]["stages"] = ["ppo", "eval"]
    config["eval"] = small(tmp_path)["eval"] | {
        "models": [f"sft={done / 'sft'}", f"ppo={tmp_path / 'lora/ppo'}"],
        "prm": str(done / "prm"),
        "problems": str(done / "heldout.jsonl"),
    }
    results = run(config, say=lambda text: None)
    assert (tmp_path / "lora/ppo/adapter_config.json").is_file()
    assert not (tmp_path / "lora/ppo/model.safetensors").exists()
    plain = json.loads((done / "results.json").read_text())
    assert results["sft"]["pass1_sampled"] == plain["sft"]["pass1_sampled"]
    assert results["ppo"]["mean_tokens"] != results["sft"]["mean_tokens"]


@pytest.mark.slow  # two more processes have to import torch and transformers
def test_a_stage_under_an_accelerate_launch_of_two_processes_trains_what_one_does(done_run, tmp_path):
    _, done, *_ = done_run
    launch = {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "num_machines": 1, "machine_rank": 0,
        "num_processes": 2, "use_cpu": True, "mixed_precision": "no",
    }  # fmt: skip
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(launch))
    config = ppo_only(tmp_path / "two", done, per_device_train_batch_size=4)
    config["run"]["accelerate_config"] = str(tmp_path / "two.yaml")
    run(config, say=lambda text: None)
    run(ppo_only(tmp_path / "one", done), say=lambda text: None)
    one, two = (load_file(tmp_path / name / "ppo/model.safetensors") for name in ("one", "two"))
    before = load_file(done / "sft/model.safetensors")
    assert any(not torch.equal(one[name], before[name]) for name in one)
    for name, expected in one.items():
        assert torch.allclose(two[name], expected, rtol=1e-4, atol=1e-7), name
