"""Report: results.json, table, figures, Markdown, from the files of a run."""

import json

import pytest

from rleif.figures import smooth
from rleif.records import write_jsonl
from rleif.report import collect, table, write_report


def metrics(greedy, sampled):
    return {
        "n": 4, "pass1_greedy": greedy, "pass1_sampled": sampled,
        "intervals": {"pass1_greedy": [0.1, 0.6], "pass1_sampled": [0.2, 0.5]},
        "by_difficulty": {"1": {"n": 2, "pass1_greedy": greedy}, "10": {"n": 1, "pass1_greedy": 0.0},
                          "2": {"n": 1, "pass1_greedy": 1.0}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run directory as the stages leave it: two evaluations in which PPO gains q1 and loses q2."""
    write = lambda path, value: (path.parent.mkdir(parents=True, exist_ok=True), path.write_text(json.dumps(value)))  # noqa: E731
    (tmp_path / "config.yaml").write_text("run: {seed: 7}\n")
    write(tmp_path / "eval/sft/metrics.json", metrics(0.25, 0.3))
    write(tmp_path / "eval/ppo/metrics.json", metrics(0.5, 0.4))
    part = {"before": 0.25, "after": 0.5, "difference": 0.25, "interval": [-0.1, 0.6]}
    comparison = {"n": 4, "greedy": part, "sampled": None, "only_before": 1, "only_after": 2, "mcnemar_p": 1.0}
    write(tmp_path / "eval/comparison.json", comparison)
    write(tmp_path / "irm/metrics.json", {"pair_accuracy": 0.9, "train_loss": 0.1})
    write(tmp_path / "prm/metrics.json", {"step_accuracy": 0.95, "first_error_f1": 0.8})
    log = [{"step": s, "objective/irm": 0.8, "objective/prm": 0.5, "objective/accuracy": 0.1 * s} for s in range(1, 6)]
    write(tmp_path / "ppo/trainer_state.json", {"log_history": log})
    steps = [{"direction": "seed", "round": 0, "n": 9, "mean_steps": 2.0},
             {"direction": "up", "round": 1, "n": 7, "mean_steps": 3.0},
             {"direction": "down", "round": 1, "n": 5, "mean_steps": 1.2}]  # fmt: skip
    write(tmp_path / "evolve/report.json", {"steps": steps})
    names = ["q1", "q2", "q3", "q4"]
    write_jsonl(tmp_path / "heldout.jsonl", [{"id": name, "instruction": f"Question {name}?"} for name in names])
    for model, right in (("sft", "q2"), ("ppo", "q1")):
        rows = [{"problem_id": name, "mode": "greedy", "grade": "correct" if name == right else "wrong",
                 "text": f"{model} says\n```\n{name}", "gold": "4"} for name in names]  # fmt: skip
        write_jsonl(tmp_path / "eval" / model / "samples.jsonl", rows)
    return tmp_path


def test_results_hold_what_each_stage_measured(folder):
    results = collect(folder, seed=7)
    assert results["sft"]["pass1_greedy"] == 0.25
    assert results["irm"] == {"pair_accuracy": 0.9}
    assert results["prm"] == {"step_accuracy": 0.95, "first_error_f1": 0.8}
    assert results["comparison"]["only_after"] == 2
    assert results["seed"] == 7
    assert results["seconds"] == {"total": 0}


def test_the_table_states_intervals_and_the_paired_comparison(folder):
    lines = table(collect(folder, seed=7))
    assert any(
        line.split() == ["pass1_greedy", "25.0%", "[10.0,", "60.0]", "50.0%", "[10.0,", "60.0]"] for line in lines
    )
    assert "greedy pass@1, ppo - sft, same problems: +25.0 points [-10.0, +60.0]" in lines
    assert "greedy: 2 problems solved by ppo alone, 1 by sft alone, McNemar p = 1" in lines


def test_the_report_shows_gains_and_losses_alike(folder):
    said = []
    write_report(folder, say=said.append)
    text = (folder / "report.md").read_text()
    assert text.count("**Problem.**") == 2
    assert text.index("Question q1?") < text.index("Question q2?")  # gained, then lost
    assert "SFT, wrong:\n\n````text\nsft says\n```\nq1\n````" in text
    assert "![ppo steps](figures/ppo_steps.png)" in text
    assert json.loads((folder / "results.json").read_text())["seed"] == 7


def test_the_figures_are_drawn(folder):
    write_report(folder, say=lambda text: None)
    for name in ("ppo_steps", "evolution_steps", "accuracy_by_difficulty"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_run_has_a_report_of_what_there_is(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {seed: 3}\n")
    results = write_report(tmp_path, say=lambda text: None)
    assert results.keys() == {"seconds", "versions", "commit", "seed"}
    assert not (tmp_path / "figures").exists()


def test_smoothing_has_no_bias_at_its_start():
    # keep 0.5: m1 = 0.5 x 2 = 1, shown 1 / 0.5 = 2; m2 = 0.5 x 1 + 0.5 x 4 = 2.5, shown 2.5 / 0.75
    assert smooth([2.0, 4.0], keep=0.5) == pytest.approx([2.0, 2.5 / 0.75])
