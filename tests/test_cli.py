"""The command line: exit codes, messages, and what it does not import."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reward_world import QUICK, trained_head

from reward_models.prm import PRMConfig, PRMTrainer
from rleif import cli
from rleif.pipeline.lock import LOCK_FILE, locked
from rleif.records import write_jsonl

ROOT = Path(__file__).resolve().parent.parent


def rleif(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "rleif", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )


def test_help_names_every_command_and_ends_well(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("evolve", "label", "sft", "irm", "prm", "ppo", "eval", "run", "report"):
        assert command in text
    for command, word in (("run", "--dry-run"), ("label", "samples"), ("report", "RUN_DIRECTORY")):
        assert cli.main([command, "--help"]) == 0
        assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command given"),
        (["pppo"], "unknown command 'pppo'; did you mean 'ppo'?"),
        (["label", "stepz"], "unknown command 'label stepz'; did you mean 'label steps'?"),
        (["run", "no.yaml"], "no.yaml: no such configuration file"),
        (["run", "--dry-run"], "rleif run takes one configuration"),
        (["run", "a.yaml", "--force"], "--force has no value"),
        (["report"], "rleif report takes one run directory"),
        (["report", "nowhere"], "nowhere is no run directory"),
        (["sft", "--learning_rat", "1"], "did you mean 'learning_rate'?"),
        (["evolve", "--config", "no.yaml"], "no.yaml: no such configuration file"),
    ],
)
def test_a_mistake_in_the_call_is_told_in_one_paragraph(arguments, words, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys):
    assert cli.main(["report", "nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_says_how_to_continue(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main(["run", "x.yaml"]) == 130
    assert "run the same command to continue" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_dispatch", broken)
    with pytest.raises(RuntimeError):
        cli.main(["run", "x.yaml"])


def test_a_stage_runs_from_a_file_and_flags_where_flags_win(tmp_path, capsys):
    config = tmp_path / "evolve.yaml"
    config.write_text(f"output_dir: {tmp_path}/run\nnum_seeds: 9\nmax_steps: 2\nprogress: false\n")
    assert cli.main(["evolve", "--config", str(config), "--num_seeds", "4", "--num_heldout", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"]["given"] == 4
    assert cli.main(["label", "answers", "--output_dir", f"{tmp_path}/run", "--progress", "false"]) == 0
    assert (tmp_path / "run/label/answers.jsonl").is_file()


def test_a_data_error_names_the_file_and_line(tmp_path, capsys):
    write_jsonl(tmp_path / "seeds.jsonl", [{"instruction": "1 + 1?", "answer": "2"}])
    with (tmp_path / "seeds.jsonl").open("a") as file:
        file.write('{"instruction": "2 +')
    assert cli.main(["evolve", "--seeds", str(tmp_path / "seeds.jsonl"), "--output_dir", str(tmp_path)]) == 2
    assert "seeds.jsonl, line 2: not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run", "{config}"], ["evolve", "--num_seeds", "2", "--output_dir", "{folder}"]])
def test_a_directory_in_use_by_another_run_is_refused(tmp_path, capsys, command):
    folder, config = tmp_path / "r", tmp_path / "c.yaml"
    config.write_text(f"run: {{output_dir: {folder}, stages: [evolve]}}\nevolve: {{num_seeds: 2}}\n")
    with locked(folder):
        assert cli.main([part.format(config=config, folder=folder) for part in command]) == 2
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    assert f"{folder} is in use by another run (process {os.getpid()} on " in capsys.readouterr().err


def test_a_reward_model_that_gives_nan_ends_ppo_with_an_exit_code_and_the_samples_named(tmp_path, base):
    network = trained_head(base, "prm")
    with torch.no_grad():
        network.score.weight.fill_(math.nan)
    PRMTrainer(network, PRMConfig(output_dir=str(tmp_path / "prm"), **QUICK)).save_model()
    write_jsonl(tmp_path / "pool.jsonl", [{"instruction": "What is 1 + 1?"}, {"instruction": "What is 2 + 2?"}])
    flags = {"model": base, "prm": tmp_path / "prm", "train_file": tmp_path / "pool.jsonl", "num_iterations": 9}
    flags |= {"output_dir": tmp_path / "ppo", "rollout_batch_size": 4, "num_generations": 2, "max_nonfinite": 1}
    flags |= {"max_completion_length": 4}
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    found = rleif("ppo", *given, "--use_cpu", "--disable_tqdm", "true", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found.returncode == 1
    for instruction in ("1 + 1", "2 + 2"):
        named = rf"reward of prompt \d \('What is {re.escape(instruction)}\?'\), completion .* is nan"
        assert re.search(named, found.stderr)
    assert "iteration 1: 4 of 4 rewards are NaN or infinite, for the 2th iteration in a row" in found.stderr
    assert not (tmp_path / "ppo" / "model.safetensors").exists()


def test_run_refuses_a_multi_process_launch_and_says_what_to_do(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"run: {{output_dir: {tmp_path}/r, stages: [evolve]}}\nevolve: {{num_seeds: 2}}\n")
    found = rleif("run", str(config), env={**os.environ, "WORLD_SIZE": "2", "RANK": "0", "PYTHONPATH": str(ROOT)})
    assert found.returncode == 2
    assert "run.accelerate_config" in found.stderr
