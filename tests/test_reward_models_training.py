"""Training, saving, loading and scoring of both reward models on tiny networks."""

import json
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaForCausalLM,
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
QUICK = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1000}


@pytest.fixture
def base(tmp_path: Path, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    """A causal-LM checkpoint to start from."""
    tiny_model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def ranked_lists(count: int, seed: int, planted: bool = True) -> list[RankedInstructions]:
    """Problems that ask a question are better than those that do not; without `planted` the order is random."""
    rng, lists = random.Random(seed), []
    for _ in range(count):
        texts = [f"Ann has {rng.randint(1, 99)} pens and buys {rng.randint(1, 99)} more." for _ in range(3)]
        if planted or rng.random() < 0.5:
            lists.append(RankedInstructions(tiers=((texts[0] + " How many pens?",), (texts[1], texts[2]))))
        else:
            lists.append(RankedInstructions(tiers=((texts[1], texts[2]), (texts[0] + " How many pens?",))))
    return lists


def summed_solutions(count: int, seed: int, planted: bool = True) -> list[LabeledSolution]:
    """A step with a false sum is wrong; without `planted` the labels are random, in the same proportion."""
    rng, solutions = random.Random(seed), []
    for _ in range(count):
        steps, labels = [], []
        for number in range(1, 4):
            a, b, is_right = rng.randint(0, 2), rng.randint(0, 2), rng.random() < 0.6
            result = a + b if is_right else (a + b + rng.randint(1, 4)) % 5
            steps.append(f"Step {number}: {a} + {b} = {result}")
            labels.append(1 if (is_right if planted else rng.random() < 0.6) else -1)
        solutions.append(LabeledSolution(instruction="Add.", steps=tuple(steps), labels=tuple(labels)))
    return solutions


def trained_head(base: str, kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A network whose head is not zero, so that scores differ and gradients reach every weight."""
    network = load_network(base, kind, trained=False, dtype=dtype, **options)
    for weight in network.score.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return network


def saved(base: str, folder: Path, kind: str, tokenizer: Any = None, **config: Any) -> str:
    """A saved reward model with a head that is not zero."""
    trainers: dict[str, Callable[..., Any]] = {
        "irm": lambda *rest, **more: IRMTrainer(*rest, **more),
        "prm": lambda *rest, **more: PRMTrainer(*rest, **more),
    }
    configs = {"irm": IRMConfig, "prm": PRMConfig}
    trainer = trainers[kind](
        trained_head(base, kind), configs[kind](output_dir=str(folder), **QUICK, **config), processing_class=tokenizer
    )
    trainer.save_model()
    return str(folder)


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
        num_train_epochs=10,
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


@pytest.mark.parametrize("kind", ["irm", "prm"])
def test_the_update_does_not_depend_on_the_micro_batch_split(tmp_path: Path, base: str, kind: str) -> None:
    # Lists of 2 to 5 items and solutions of 1 to 3 steps: a mean of micro-batch means would differ.
    lists = [RankedInstructions(tiers=tuple((f"text {i} {j}",) for j in range(2 + i % 4))) for i in range(6)]
    steps, values = ("s 1", "s 2", "s 3"), (0.2, 0.7, 1.0)
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
        assert loss == pytest.approx(whole_loss, abs=1e-6)  # Trainer adds its losses up in float32
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


# Scoring

LONG = "Ann buys 30 more pens and gives half of them to 7 friends. 日本 🧮 How many?"
INSTRUCTIONS = ["Ann has 12 pens.", "How many?", LONG] * 2
SOLUTIONS = [
    "Step 1: 1 + 1 = 2\nStep 2: 2 + 2 = 5\nThe answer is: 5", "", "a single line", "p1\r\n\r\np2 🧮\r\n\r\np3",
    "1. a\n2. b\n#### 3", "x\ny",
]  # fmt: skip


def test_scores_do_not_depend_on_the_batch_and_keep_the_order(tmp_path: Path, base: str) -> None:
    irm = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "irm", "irm"))
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    alone = [irm.score([text])[0] for text in INSTRUCTIONS]
    for size in (2, 4, 64):
        assert irm.score(INSTRUCTIONS, batch_size=size) == pytest.approx(alone, abs=1e-6)
    single = [prm.score_steps([q], [s])[0] for q, s in zip(INSTRUCTIONS, SOLUTIONS, strict=True)]
    for size in (2, 64):
        for one, many in zip(single, prm.score_steps(INSTRUCTIONS, SOLUTIONS, batch_size=size), strict=True):
            assert many.steps == one.steps
            assert many.scores == pytest.approx(one.scores, abs=1e-6)
    assert [len(result.scores) for result in single] == [3, 0, 1, 3, 3, 2]
    assert len({round(score, 6) for score in alone}) == 3
    assert all(0 < score < 1 for result in single for score in result.scores)
    assert (irm.score([]), prm.score_steps([], [])) == ([], [])


def test_padding_amount_and_side_do_not_change_a_score(base: str) -> None:
    network = trained_head(base, "irm").eval()
    ids = [5, 6, 7, 8]
    with torch.no_grad():
        plain = network(**pad_batch([ids], [[3]], 0)).item()
        wide = network(**pad_batch([ids, [9] * 40], [[3], [39]], 0))[0].item()
        left = network(
            input_ids=torch.tensor([[0, 0, *ids]]),
            attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]]),
            positions=torch.tensor([[5]]),
        ).item()
    assert wide == pytest.approx(plain, abs=1e-6)
    assert left == pytest.approx(plain, abs=1e-6)


def test_the_mask_of_a_batch_comes_from_lengths_even_where_the_text_holds_the_pad_id() -> None:
    batch = pad_batch([[5, 0, 7, 0], [0]], [[1, 3], [0]], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 0, 7, 0], [0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["positions"].tolist() == [[1, 3], [0, 0]]


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_any_pad_token_gives_the_same_scores_and_the_eos_is_read(
    tmp_path: Path, base: str, tiny_tokenizer: PreTrainedTokenizerFast, pad: str | None
) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token=pad, eos_token="<eos>", padding_side="left"
    )
    reference = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "reference", "irm"))
    path = saved(base, tmp_path / "irm", "irm", tokenizer)
    irm = InstructionRewardModel.from_pretrained(path)
    assert irm.tokenizer.pad_token == pad
    assert irm.score(INSTRUCTIONS) == pytest.approx(reference.score(INSTRUCTIONS), abs=1e-6)

    plain = AutoModelForSequenceClassification.from_pretrained(path)
    for text, score in zip(INSTRUCTIONS, irm.score(INSTRUCTIONS), strict=True):
        ids = [*irm.tokenizer(text)["input_ids"], irm.tokenizer.eos_token_id]
        with torch.no_grad():
            logit = plain(input_ids=torch.tensor([ids])).logits
        assert torch.sigmoid(logit).item() == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_training_works_without_a_pad_token_of_its_own(
    tmp_path: Path, base: str, tiny_tokenizer: PreTrainedTokenizerFast, pad: str | None
) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token=pad, eos_token="<eos>"
    )
    irm = IRMTrainer(
        base, IRMConfig(output_dir=str(tmp_path / "irm"), **QUICK), ranked_lists(4, 0), processing_class=tokenizer
    )
    prm = PRMTrainer(
        base, PRMConfig(output_dir=str(tmp_path / "prm"), **QUICK), summed_solutions(4, 0), processing_class=tokenizer
    )
    for trainer in (irm, prm):
        assert 0 < trainer.train().training_loss < 2


def test_plain_transformers_loads_a_saved_prm_and_gives_the_same_scores(tmp_path: Path, base: str) -> None:
    path = saved(base, tmp_path / "prm", "prm")
    prm = ProcessRewardModel.from_pretrained(path)
    network, tokenizer = AutoModelForTokenClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    text = SOLUTIONS[0]
    (result,) = prm.score_steps(["Add."], [text])
    prompt = prm.format.render("Add.")
    tokens = tokenizer(prompt + text, return_offsets_mapping=True, return_tensors="pt")
    with torch.no_grad():
        scores = torch.sigmoid(network(input_ids=tokens["input_ids"]).logits[0, :, 0])
    for step, score in zip(result.steps, result.scores, strict=True):
        last = len(prompt) + step.end - 1
        (place,) = [i for i, (start, end) in enumerate(tokens["offset_mapping"][0].tolist()) if start <= last < end]
        assert scores[place].item() == pytest.approx(score, abs=1e-6)


def test_given_steps_are_scored_as_the_same_text_is(tmp_path: Path, base: str) -> None:
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    given = prm.score_given_steps(["Add."], [("Step 1: 1 + 1 = 2", "Step 2: 2 + 2 = 5")])
    split = prm.score_steps(["Add."], ["Step 1: 1 + 1 = 2\nStep 2: 2 + 2 = 5"])
    assert given == split


def test_later_steps_do_not_change_earlier_scores(tmp_path: Path, base: str) -> None:
    prm = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "prm", "prm"))
    long = prm.score_steps(["Add."], ["Step 1: a b\nStep 2: c d\nStep 3: e"])[0].scores
    short = prm.score_steps(["Add."], ["Step 1: a b\nStep 2: c d"])[0].scores
    assert short == pytest.approx(long[:2], abs=1e-6)


def test_steps_beyond_the_length_score_zero_and_are_counted(
    tmp_path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(base, tmp_path / "prm", "prm", max_length=30, prompt_template="{instruction}")
    prm, text = ProcessRewardModel.from_pretrained(path), "\n".join(f"Step {k}: 1 + 1 = 2" for k in range(1, 6))
    (result,) = prm.score_steps(["Q"], [text])
    whole = ProcessRewardModel.from_pretrained(saved(base, tmp_path / "long", "prm", prompt_template="{instruction}"))
    read = len(result.steps) - result.unread
    assert 0 < read < 5 == len(result.scores)
    assert result.scores[:read] == pytest.approx(whole.score_steps(["Q"], [text])[0].scores[:read], abs=1e-6)
    assert result.scores[read:] == (0.0,) * result.unread
    assert "1 of 1 solutions are longer than 30 tokens" in caplog.text
    (nothing,) = prm.score_steps(["a long prompt " * 40], [text])
    assert (nothing.scores, nothing.unread) == ((0.0,) * 5, 5)


def test_a_long_instruction_is_read_from_its_beginning(
    tmp_path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    irm = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "irm", "irm", max_length=10))
    scores = irm.score(["1234567890", "123456789", "1234567890 and more"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0] == pytest.approx(scores[2], abs=1e-6)
    assert "2 of 3 instructions are longer than 10 tokens" in caplog.text


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
