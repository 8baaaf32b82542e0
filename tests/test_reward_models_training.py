"""Training, saving and loading of both reward models on tiny networks."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from reward_world import QUICK, ranked_lists, saved, summed_solutions, trained_head
from transformers import (
    PreTrainedTokenizerFast,
)

from reward_models.__main__ import main
from reward_models.backbone import load_network, pad_batch
from reward_models.formats import ProcessFormat
from reward_models.irm import InstructionRewardModel, IRMArguments, IRMConfig, IRMTrainer, train_irm
from reward_models.measure import EvalArguments, evaluate_file
from reward_models.prm import (
    PRMArguments,
    PRMConfig,
    PRMTrainer,
    ProcessRewardModel,
    encode_solution,
    step_targets,
    train_prm,
)
from reward_models.records import DataError, LabeledSolution, RankedInstructions, write_jsonl
from reward_models.steps import split_steps

ROOT = Path(__file__).resolve().parent.parent

# Learning


def test_an_irm_learns_a_planted_rule_from_files(tmp_path: Path, base: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", ranked_lists(100, seed=0))
    write_jsonl(tmp_path / "heldout.jsonl", ranked_lists(50, seed=1))
    arguments = IRMArguments(
        model=base, train_file=str(tmp_path / "train.jsonl"), eval_file=str(tmp_path / "heldout.jsonl")
    )
    metrics = train_irm(arguments, IRMConfig(output_dir=str(tmp_path / "irm"), learning_rate=3e-3, **QUICK))
    assert metrics["pair_accuracy"] >= 0.99
    assert metrics["rows"]["train"] == {"rows": 100, "used": 100, "refused_without_pair": 0, "instructions_cut": 0}
    assert json.loads((tmp_path / "irm" / "metrics.json").read_text()) == metrics

    measured = evaluate_file(EvalArguments(model=str(tmp_path / "irm"), data_file=str(tmp_path / "heldout.jsonl")))
    assert measured["pair_accuracy"] == pytest.approx(metrics["pair_accuracy"], abs=1e-9)
    assert (measured["lists"], measured["pairs"]) == (50, 100)
    # The centering term keeps the level of all scores near one half.
    assert measured["mean_score_worst_tier"] < 0.5 < measured["mean_score_best_tier"]


def test_an_irm_learns_nothing_from_random_ranks(tmp_path: Path, base: str) -> None:
    trainer = IRMTrainer(
        base,
        IRMConfig(output_dir=str(tmp_path / "irm"), learning_rate=3e-3, **QUICK),
        ranked_lists(100, seed=0, planted=False),
        ranked_lists(100, seed=1, planted=False),
    )
    trainer.train()
    assert 0.3 <= trainer.evaluate()["eval_pair_accuracy"] <= 0.7


def test_a_prm_learns_a_planted_rule_from_files(tmp_path: Path, base: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", summed_solutions(400, seed=0))
    write_jsonl(tmp_path / "heldout.jsonl", summed_solutions(100, seed=1))
    arguments = PRMArguments(
        model=base, train_file=str(tmp_path / "train.jsonl"), eval_file=str(tmp_path / "heldout.jsonl")
    )
    config = PRMConfig(
        output_dir=str(tmp_path / "prm"),
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        num_train_epochs=15,
        prompt_template="{instruction}",
        **QUICK,
    )
    metrics = train_prm(arguments, config)
    assert metrics["step_accuracy"] >= 0.95
    assert metrics["first_error_f1"] >= 0.9
    assert json.loads((tmp_path / "prm" / "metrics.json").read_text()) == metrics

    output = tmp_path / "measured.json"
    measured = evaluate_file(
        EvalArguments(model=str(tmp_path / "prm"), data_file=arguments.eval_file or "", output_file=str(output))
    )
    assert json.loads(output.read_text()) == measured
    for name in ("step_accuracy", "first_error_f1"):
        assert measured[name] == pytest.approx(metrics[name], abs=1e-9)

    rows = []
    for solution in summed_solutions(100, seed=1):
        labels = list(solution.labels or ())
        rows.append({"problem": "Add.", "steps": solution.steps, "label": labels.index(-1) if -1 in labels else -1})
    (tmp_path / "processbench.json").write_text(json.dumps(rows))
    found = evaluate_file(EvalArguments(model=str(tmp_path / "prm"), data_file=str(tmp_path / "processbench.json")))
    assert found["first_error_f1"] == pytest.approx(metrics["first_error_f1"], abs=1e-9)


def test_a_prm_learns_nothing_from_random_labels(tmp_path: Path, base: str) -> None:
    config = PRMConfig(
        output_dir=str(tmp_path / "prm"), learning_rate=1e-2, prompt_template="{instruction}", max_steps=40, **QUICK
    )
    trainer = PRMTrainer(
        base, config, summed_solutions(200, seed=0, planted=False), summed_solutions(200, seed=1, planted=False)
    )
    trainer.train()
    # The majority label is right 6 times in 10.
    assert trainer.evaluate()["eval_step_accuracy"] <= 0.68


# The gradient


@pytest.mark.parametrize("lm_coef", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["irm", "prm"])
def test_the_update_does_not_depend_on_the_micro_batch_split(
    tmp_path: Path, base: str, kind: str, lm_coef: float
) -> None:
    # Lists of 2 to 5 items and solutions of 1 to 3 steps: a mean of micro-batch means would differ.
    lists = [RankedInstructions(tiers=tuple((f"text {i} {j}",) for j in range(2 + i % 4))) for i in range(6)]
    steps, values = ("s 1", "s 2", "s 3"), (0.7, 1.0, 0.2)
    solutions = [
        LabeledSolution(instruction=f"q{i}", steps=steps[: 1 + i % 3], values=values[: 1 + i % 3]) for i in range(6)
    ]
    updated = []
    for size in (6, 2, 1):
        network = trained_head(base, kind, torch.float64)
        options = {
            "output_dir": str(tmp_path / f"{kind}{size}"),
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": 6 // size,
            "optim": "sgd",
            "learning_rate": 0.5,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "lm_coef": lm_coef,
            **QUICK,
        }
        trainer: Any
        if kind == "irm":
            trainer = IRMTrainer(network, IRMConfig(**options), lists)
        else:
            trainer = PRMTrainer(network, PRMConfig(**options), solutions)
        result = trainer.train()
        assert result.global_step == 1
        updated.append((result.training_loss, {name: weight.detach() for name, weight in network.named_parameters()}))
    whole_loss, whole = updated[0]
    before = dict(trained_head(base, kind, torch.float64).named_parameters())
    assert (whole["score.weight"] - before["score.weight"]).abs().max() > 1e-3
    for loss, weights in updated[1:]:
        assert loss == pytest.approx(whole_loss, rel=1e-6, abs=1e-6)  # Trainer adds its losses up in float32
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["irm", "prm"])
def test_a_new_model_scores_one_half_everywhere(tmp_path: Path, base: str, kind: str) -> None:
    network = load_network(base, kind, trained=False, dtype=torch.float32)
    batch = pad_batch([[5, 6, 7], [8, 9]], [[2], [1]], pad_id=0)
    assert torch.sigmoid(network(**batch)).tolist() == [[0.5], [0.5]]


def test_low_precision_training_keeps_head_and_loss_in_float32(tmp_path: Path, base: str) -> None:
    config = PRMConfig(output_dir=str(tmp_path / "prm"), bf16=True, max_steps=2, **QUICK)
    trainer = PRMTrainer(base, config, summed_solutions(8, seed=0))
    trainer.train()
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[0]]))
    with trainer.compute_loss_context_manager(), torch.autocast("cpu", dtype=torch.bfloat16):
        loss, logits = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert (loss.dtype, logits.dtype) == (torch.float32, torch.float32)
    # A head that ran in bfloat16 would give logits that bfloat16 holds exactly.
    assert not torch.equal(logits, logits.bfloat16().float())
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}


# Labels to targets


def test_neutral_labels_and_steps_after_the_first_error_follow_the_switches() -> None:
    solution = LabeledSolution(instruction="q", steps=("a", "b", "c", "d"), labels=(1, 0, -1, 1))
    assert step_targets(solution) == [1.0, 0.0, 0.0, 1.0]
    assert step_targets(solution, "right") == [1.0, 1.0, 0.0, 1.0]
    assert step_targets(solution, "ignore") == [1.0, None, 0.0, 1.0]
    assert step_targets(solution, "wrong", "drop") == [1.0, 0.0, None, None]
    assert step_targets(solution, "right", "drop") == [1.0, 1.0, 0.0, None]
    soft = LabeledSolution(instruction="q", steps=("a", "b", "c"), values=(0.9, 0.4, 0.6))
    assert step_targets(soft) == [0.9, 0.4, 0.6]
    assert step_targets(soft, after_first_error="drop") == [0.9, 0.4, None]


def test_rows_that_teach_nothing_are_refused_and_counted(tmp_path: Path, base: str) -> None:
    usable = LabeledSolution(instruction="q", steps=("a", "b " * 200, "c"), labels=(1, 1, -1))
    without_label = LabeledSolution(instruction="q", steps=("a",), labels=(0,))
    too_long = LabeledSolution(instruction="q " * 300, steps=("a",), labels=(1,))
    config = PRMConfig(output_dir=str(tmp_path), neutral_as="ignore", max_length=120, **QUICK)
    trainer = PRMTrainer(base, config, [usable, without_label, too_long])
    assert trainer.row_counts["train"] == {
        "rows": 3, "used": 1, "refused_without_label": 1, "refused_too_long": 1, "steps_cut": 3,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"none of the 1 rows of the train .* can be used: .*'refused_without_label'"):
        PRMTrainer(base, config, [without_label])
    tie = RankedInstructions(tiers=(("a", "b"),))
    with pytest.raises(DataError, match="'refused_without_pair': 1"):
        IRMTrainer(base, IRMConfig(output_dir=str(tmp_path), **QUICK), [tie])


def test_the_ends_of_steps_survive_the_prompt(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    format, text = ProcessFormat(max_length=500), "Step 1: a\u2028b 🧮\r\nStep 2: $x$"
    tokens = encode_solution("日本 {instruction}", text, split_steps(text), tiny_tokenizer, format)
    assert tiny_tokenizer.decode(tokens.ids[: tokens.ends[0] + 1]).endswith("Step 1: a\u2028b 🧮")
    assert tiny_tokenizer.decode(tokens.ids).endswith("### Response:\n" + text)


# The interface


def test_a_datasets_dataset_of_rows_is_taken_as_records_are(tmp_path: Path, base: str) -> None:
    rows = [
        {"instruction": s.instruction, "steps": list(s.steps), "labels": list(s.labels or ())}
        for s in summed_solutions(3, seed=0)
    ]
    from_rows = PRMTrainer(base, PRMConfig(output_dir=str(tmp_path), **QUICK), Dataset.from_list(rows))
    from_records = PRMTrainer(base, PRMConfig(output_dir=str(tmp_path), **QUICK), summed_solutions(3, seed=0))
    assert from_rows.train_dataset[:] == from_records.train_dataset[:]


def test_fewer_rows_than_a_batch_train_in_one_small_batch(tmp_path: Path, base: str) -> None:
    config = IRMConfig(output_dir=str(tmp_path), per_device_train_batch_size=64, num_train_epochs=2, **QUICK)
    trainer = IRMTrainer(base, config, ranked_lists(3, seed=0))
    assert trainer.train().global_step == 2
    config = IRMConfig(output_dir=str(tmp_path), per_device_train_batch_size=64, dataloader_drop_last=True, **QUICK)
    with pytest.raises(DataError, match="3 training rows are fewer than one batch of 64"):
        IRMTrainer(base, config, ranked_lists(3, seed=0))
    with pytest.raises(DataError, match="the train data set is empty"):
        IRMTrainer(base, config, [])


def test_training_resumed_from_a_checkpoint_equals_training_in_one_go(tmp_path: Path, base: str) -> None:
    options = {**QUICK, "save_strategy": "steps", "save_steps": 3, "max_steps": 6, "learning_rate": 1e-3}
    lists = ranked_lists(24, seed=0)
    whole = IRMTrainer(base, IRMConfig(output_dir=str(tmp_path / "run"), **options), lists)
    whole.train()
    assert (tmp_path / "run" / "checkpoint-3" / "reward_model.json").is_file()
    resumed = IRMTrainer(base, IRMConfig(output_dir=str(tmp_path / "again"), **options), lists)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for (name, weight), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize("kind", ["irm", "prm"])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's call
def test_an_adapter_is_trained_with_its_head_and_merged_into_a_plain_checkpoint(
    tmp_path: Path, base: str, kind: str
) -> None:
    from peft import LoraConfig

    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    options = {"output_dir": str(tmp_path / kind), "learning_rate": 1e-2, "max_steps": 4, **QUICK}
    if kind == "irm":
        write_jsonl(tmp_path / "rows.jsonl", ranked_lists(16, seed=0))
        arguments = IRMArguments(model=base, train_file=str(tmp_path / "rows.jsonl"))
        train_irm(arguments, IRMConfig(**options), peft_config=adapter)
        scores = InstructionRewardModel.from_pretrained(str(tmp_path / kind)).score(["How many?"])
    else:
        write_jsonl(tmp_path / "rows.jsonl", summed_solutions(16, seed=0))
        arguments = PRMArguments(model=base, train_file=str(tmp_path / "rows.jsonl"))
        train_prm(arguments, PRMConfig(**options), peft_config=adapter)
        scores = ProcessRewardModel.from_pretrained(str(tmp_path / kind)).score_steps(["Add."], ["a"])[0].scores
    assert scores[0] != 0.5
    assert not (tmp_path / kind / "adapter_config.json").exists()


def test_a_path_that_is_no_reward_model_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ValueError, match=r"is not a reward model: it has no reward_model\.json"):
        InstructionRewardModel.from_pretrained(base)
    with pytest.raises(ValueError, match="is not a reward model"):
        ProcessRewardModel.from_pretrained(str(tmp_path / "nowhere"))
    irm = saved(base, tmp_path / "irm", "irm")
    with pytest.raises(ValueError, match="kind 'irm'; expected kind 'prm'"):
        ProcessRewardModel.from_pretrained(irm)
    # The JSON of a reward model beside weights without a head: scores would come from random numbers.
    (Path(base) / "reward_model.json").write_text((tmp_path / "irm" / "reward_model.json").read_text())
    with pytest.raises(ValueError, match=r"is not a whole reward model: missing weights \['score.weight'\]"):
        InstructionRewardModel.from_pretrained(base)
    (tmp_path / "irm" / "reward_model.json").write_text('{"kind": "irm", "max_length": 5, "magic": 1}')
    with pytest.raises(ValueError, match=r"unknown keys \['magic'\]; known are \['max_length'\]"):
        InstructionRewardModel.from_pretrained(irm)


def test_a_tokenizer_of_another_model_or_without_offsets_is_refused(
    tmp_path: Path, base: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<eos>")
    other.add_tokens([f"<extra{i}>" for i in range(5)])
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens but the model embeds \d+"):
        IRMTrainer(base, IRMConfig(output_dir=str(tmp_path), **QUICK), ranked_lists(2, 0), processing_class=other)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow gives no character offsets"):
        ProcessRewardModel(None, Slow(), ProcessFormat(max_length=5))  # type: ignore[arg-type]


# The command line


def test_the_command_trains_from_yaml_and_flags_and_prints_metrics(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "ranked.jsonl", ranked_lists(8, seed=0))
    yaml = tmp_path / "irm.yaml"
    yaml.write_text(
        f"model: {base}\ntrain_file: {tmp_path}/ranked.jsonl\neval_file: {tmp_path}/ranked.jsonl\nuse_cpu: true\n"
        "disable_tqdm: true\nsave_strategy: 'no'\nlearning_rate: 1e-3\nmargin: 0.2\n"
    )
    assert main(["irm", "--config", str(yaml), "--output_dir", str(tmp_path / "irm"), "--max_steps", "2"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads(printed[printed.index('{\n  "steps"') :])
    assert metrics["steps"] == 2
    assert 0 <= metrics["pair_accuracy"] <= 1
    assert main(["eval", "--model", str(tmp_path / "irm"), "--data_file", str(tmp_path / "ranked.jsonl")]) == 0
    assert '"pair_accuracy"' in capsys.readouterr().out


def test_an_unknown_key_is_answered_with_the_nearest_known_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prm.yaml").write_text("model: m\ntrain_file: f\nneutral: wrong\nlearnin_rate: 1e-3\n")
    assert main(["prm", "--config", str(tmp_path / "prm.yaml")]) == 2
    error = capsys.readouterr().err
    assert "'learnin_rate', did you mean 'learning_rate'?" in error
    assert "'neutral', did you mean 'neutral_as'?" in error
    assert main(["irm", "--model", "m", "--train-fil", "x"]) == 2
    assert "'train-fil', did you mean 'train_file'?" in capsys.readouterr().err
    assert main(["ir"]) == 2
    assert "did you mean 'irm'?" in capsys.readouterr().err


def test_a_mistake_in_the_data_ends_the_command_with_one_line(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.jsonl").write_text('{"tiers": [["a"], ["b"]]}\n{"tiers": [["a"')
    arguments = ["irm", "--model", base, "--train_file", str(tmp_path / "cut.jsonl"), "--use_cpu", "true"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/cut.jsonl, line 2: not valid JSON")


def test_the_example_trains_both_models_and_scores(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "examples" / "train_reward_models.py"
    assert len(script.read_text().splitlines()) < 60
    write_jsonl(tmp_path / "ranked.jsonl", ranked_lists(20, seed=0))
    write_jsonl(tmp_path / "stepped.jsonl", summed_solutions(20, seed=0))
    files = ["--ranked", str(tmp_path / "ranked.jsonl"), "--stepped", str(tmp_path / "stepped.jsonl")]
    monkeypatch.setattr(sys, "argv", [str(script), "--model", base, *files, "--output", str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "held-out pair accuracy" in printed
    assert "held-out first-error F1" in printed
    assert "reward 0." in printed
