"""RLEIFTrainer as a transformers Trainer: checkpoints, resuming, logs, rewards, evaluation, adapters."""

import json
import math
import random
import re
import runpy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from ppo_world import (
    ScriptedIRM,
    ScriptedPRM,
    StepAtEachC,
    letter_model,
    letter_tokenizer,
    logged,
    make_trainer,
    prompts,
    share_of_c,
    weights,
)
from transformers import AutoModelForTokenClassification, LlamaForCausalLM, TrainerCallback

from reward_models.backbone import load_network
from rleif.prompting import WIZARDMATH_PROMPT
from rleif.rewards import NonFiniteError
from rleif.teachers.symbolic import sample_problem
from rleif.tiny import TinyModel, fixed_parts, make_tiny, train_tokenizer

pytestmark = pytest.mark.usefixtures("quick_collections")


# Checkpoints


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    settings = {"num_iterations": 4, "lr_scheduler_type": "linear", "save_strategy": "steps", "save_steps": 2}
    settings |= {"irm": ScriptedIRM(lambda text: 0.5 + 0.4 * (len(text) % 2))}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    # Stopped inside the third iteration, whose samples are already in the table.
    make_trainer(tmp_path / "cut", callbacks=[StopAt(5)], **settings).train()
    resumed = make_trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert torch.equal(weights(whole.model), weights(resumed.model))
    timeless = [
        [{k: v for k, v in row.items() if not k.startswith(("time/", "train_"))} for row in t.state.log_history]
        for t in (whole, resumed)
    ]
    assert timeless[0][:-1] == timeless[1][:-1]
    tables = [(tmp_path / name / "completions.jsonl").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tmp_path):
    runs = []
    for seed in (1, 1, 2):
        trainer = make_trainer(tmp_path, seed=seed)
        trainer.train()
        runs.append(weights(trainer.model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_checkpoints_are_written_at_the_ends_of_iterations_only(tmp_path):
    trainer = make_trainer(tmp_path, num_iterations=3, num_ppo_epochs=2, save_strategy="steps", save_steps=3)
    trainer.train()
    # Steps 3, 6, 9 (and the last, 12) are due; iterations end at 4, 8, 12.
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-8",
    ]


def test_a_saved_model_is_a_plain_checkpoint_with_the_critic_beside_it_and_no_pickle(tmp_path):
    model = letter_model()
    trainer = make_trainer(tmp_path, model)
    trainer.train()
    trainer.save_model()
    policy = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(weights(policy), weights(model))
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    assert torch.equal(weights(value), weights(trainer.model.value))
    assert policy.config.use_cache
    assert (tmp_path / "tokenizer.json").is_file()
    assert json.loads((tmp_path / "training_args.json").read_text())["kl_coef"] == 0.05
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_models_may_be_given_as_paths(tmp_path):
    letter_model(1).save_pretrained(tmp_path / "start")
    letter_tokenizer().save_pretrained(tmp_path / "start")
    trainer = make_trainer(
        tmp_path / "run", str(tmp_path / "start"), processing_class=None, value_model=str(tmp_path / "start"),
        ref_model=str(tmp_path / "start"), num_iterations=1,
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "objective/kl") == [0.0]
    assert logged(trainer, "val/mean") == [0.0]  # a head that the checkpoint has not starts at zero


def test_a_critic_may_start_from_an_irm_with_aspects_its_head_at_zero(tmp_path):
    letter_model(1).save_pretrained(tmp_path / "start")
    letter_tokenizer().save_pretrained(tmp_path / "start")
    irm = load_network(str(tmp_path / "start"), "irm", trained=False, dtype=torch.float32, aspects=["definition"])
    torch.nn.init.normal_(irm.score.weight)
    irm.save_pretrained(tmp_path / "irm")
    trainer = make_trainer(tmp_path / "run", value_model=str(tmp_path / "irm"), num_iterations=1)
    trainer.train()
    assert logged(trainer, "val/mean") == [0.0]


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path):
    trainer = make_trainer(
        tmp_path, eval_dataset=prompts(4), eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_reward", num_iterations=3,
    )  # fmt: skip
    trainer.train()
    rewards = logged(trainer, "eval_reward")
    assert trainer.state.best_global_step == 2 * (1 + rewards.index(max(rewards)))
    assert trainer.evaluate()["eval_reward"] == pytest.approx(max(rewards))


def test_a_folder_that_is_no_checkpoint_cannot_be_resumed_from(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_training_cannot_start_inside_an_iteration(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.state.global_step = 3
    with pytest.raises(ValueError, match=r"step 3 lies inside iteration 1; .* multiple of 2 steps"):
        trainer.get_batch_samples(iter(()), 2, torch.device("cpu"))


# Logs


def test_the_log_of_a_step_has_what_one_wants_to_plot(tmp_path):
    trainer = make_trainer(tmp_path, irm=ScriptedIRM(lambda text: 0.5))
    trainer.train()
    row = trainer.state.log_history[0]
    for group, names in {
        "objective": "kl entropy scores rlhf_reward irm prm non_score_reward accuracy nonfinite",
        "policy": "ratio clipfrac_avg approxkl_avg entropy_avg",
        "loss": "policy value",
        "val": "explained_variance mean return_mean clipfrac_avg",
        "completions": "mean_length eos_rate",
        "time": "generate score logprobs score_instructions",
        "rollout": "logprob_difference_mean logprob_difference_max",
    }.items():
        for name in names.split():
            assert math.isfinite(row[f"{group}/{name}"]), name
    assert row["objective/irm"] == 0.5
    assert "time/update" in trainer.state.log_history[1]
    # vf_coef 0.1, entropy_coef 0: Trainer's loss is that of our two, whatever the micro-batches.
    assert row["loss"] == pytest.approx(row["loss/policy"] + 0.1 * row["loss/value"], abs=1e-6)


def test_epochs_are_passes_over_the_prompts(tmp_path):
    trainer = make_trainer(tmp_path, num_iterations=None, num_train_epochs=2, train_dataset=prompts(9))
    trainer.train()
    assert trainer.state.global_step == 2 * 2 * 2  # 2 passes of 9 // 4 iterations of 2 steps
    assert trainer.state.epoch == 2.0


def test_the_completions_table_holds_both_factors_the_reward_and_the_accuracy(tmp_path):
    trainer = make_trainer(tmp_path, irm=ScriptedIRM(lambda text: 0.5), num_logged_completions=3)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 0, 0, 2, 2, 2]
    for row in rows:
        assert row["irm"] == 0.5
        assert row["prm"] == pytest.approx(share_of_c(row["completion"]))
        assert row["reward"] in (pytest.approx(0.5 * row["prm"]), pytest.approx(0.5 * row["prm"] - 1.0))
        assert row["accuracy"] == float(row["completion"].startswith("c"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*", "ignore::ResourceWarning")
def test_the_table_reaches_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    sent = []
    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", lambda self, data, *a, **k: sent.append(data))
    trainer = make_trainer(tmp_path, report_to=["wandb"], num_logged_completions=2, num_iterations=1)
    trainer.train()
    wandb.finish()
    tables = [data["completions"] for data in sent if "completions" in data]
    assert [len(table.data) for table in tables] == [2]
    assert tables[0].columns == ["step", "prompt", "completion", "irm", "prm", "reward", "accuracy"]
    assert any("train/objective/prm" in data for data in sent)


# Rewards


def test_instructions_are_scored_once_each_and_before_the_loop(tmp_path):
    irm = ScriptedIRM(lambda text: 0.5)
    rows = [{**row, "instruction": f"question {i % 3}"} for i, row in enumerate(prompts())]
    make_trainer(tmp_path, irm=irm, train_dataset=rows, num_iterations=4).train()
    assert sorted(irm.asked) == ["question 0", "question 1", "question 2"]


def test_a_factor_that_is_no_probability_ends_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"is 3.5, outside \[0, 1\]"):
        make_trainer(tmp_path, irm=ScriptedIRM(lambda text: 3.5)).train()
    with pytest.raises(ValueError, match=r"is -2.0, outside \[0, 1\]"):
        make_trainer(tmp_path, prm=ScriptedPRM(lambda text: -2.0)).train()


@pytest.mark.parametrize("placement", ["outcome", "step"])
@pytest.mark.parametrize("spoiled", ["irm", "prm"])
def test_a_nan_reward_sets_the_sample_aside_names_it_and_the_weights_stay_finite(tmp_path, caplog, spoiled, placement):
    irm = ScriptedIRM(lambda text: math.nan if spoiled == "irm" and text.startswith("a") else 0.5)
    prm = StepAtEachC(0.5, lambda text: spoiled == "prm" and text.startswith("a"))
    trainer = make_trainer(tmp_path, irm=irm, prm=prm, max_nonfinite=10, placement=placement)
    before = weights(trainer.model.policy)
    trainer.train()
    assert logged(trainer, "objective/nonfinite")[0] > 0
    named = re.findall(r"the reward of prompt \d+ \('(.).*'\), completion '(.?)", caplog.text)
    assert named
    assert {letters[("irm", "prm").index(spoiled)] for letters in named} == {"a"}
    assert weights(trainer.model).isfinite().all()
    assert not torch.equal(weights(trainer.model.policy), before)


def test_a_sample_set_aside_has_no_influence(tmp_path):
    """Its gradient is the one with any other text in its place."""
    made = []
    for spoiled in (math.nan, math.inf):
        prm = ScriptedPRM(lambda text, spoiled=spoiled: 0.5)
        trainer = make_trainer(tmp_path, prm=prm, combine=lambda parts, s=spoiled: spoil(parts.prm, s))
        made.append(trainer.maker.make(0, 0).experience)
    assert torch.equal(made[0].advantages, made[1].advantages)
    assert not made[0].is_response[2].any()
    assert not made[0].advantages[2].any()
    assert made[0].is_response[3].any()


def spoil(scores, value):
    scores = scores.clone()
    scores[2] = value
    return scores


def test_nan_rewards_in_too_many_iterations_end_the_run_with_sound_weights(tmp_path):
    trainer = make_trainer(tmp_path, prm=ScriptedPRM(lambda text: math.nan), max_nonfinite=2, num_iterations=9)
    with pytest.raises(NonFiniteError, match=r"iteration 2: 16 of 16 rewards .* 3th iteration in a row"):
        trainer.train()
    assert weights(trainer.model).isfinite().all()


def test_a_nan_gradient_ends_the_run_before_the_weights_are_touched(tmp_path):
    class Spoil(TrainerCallback):
        """A bug of somebody else's: a weight's gradient turns NaN in the second step."""

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                parameter = next(model.parameters())
                parameter.register_hook(lambda gradient: gradient * math.nan)

    trainer = make_trainer(tmp_path, callbacks=[Spoil()])
    with pytest.raises(NonFiniteError, match="optimizer step 2: the gradient's norm is nan"):
        trainer.train()
    assert weights(trainer.model).isfinite().all()


def test_another_combination_of_the_factors_can_be_given(tmp_path):
    trainer = make_trainer(tmp_path, combine=lambda parts: parts.is_correct, missing_eos_penalty=None)
    trainer.train()
    assert logged(trainer, "objective/scores") == logged(trainer, "objective/accuracy")


def test_a_completion_cut_at_the_limit_is_penalised(tmp_path):
    trainer = make_trainer(tmp_path, prm=ScriptedPRM(lambda text: 0.5), missing_eos_penalty=0.3)
    trainer.train()
    for score, eos_rate in zip(
        logged(trainer, "objective/scores"), logged(trainer, "completions/eos_rate"), strict=True
    ):
        assert score == pytest.approx(0.5 - 0.3 * (1.0 - eos_rate))


# Evaluation


def test_evaluation_is_greedy_and_reports_accuracy_and_reward(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=prompts(4), eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert len(logged(trainer, "eval_accuracy")) == 2  # due at every step, done at the ends of iterations
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_samples"] == 4.0
    assert {k: v for k, v in first.items() if "runtime" not in k} == {
        k: v for k, v in second.items() if "runtime" not in k
    }
    named = trainer.evaluate({"easy": prompts(2), "hard": [{"prompt": "a"}]})
    assert named["eval_easy_samples"] == 2.0
    assert "eval_hard_accuracy" not in named  # no answer is known


def test_evaluating_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no evaluation dataset"):
        make_trainer(tmp_path).evaluate()


# Adapters


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_with_an_adapter_the_reference_is_the_policy_without_it(tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = letter_model()
    base = weights(model)
    settings = {"peft_config": lora, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(tmp_path, model, **settings)
    assert trainer.ref_model is None
    trainer.train()
    kl = logged(trainer, "objective/kl")
    assert kl[0] == 0.0
    assert kl[1] != 0.0
    frozen = [p for name, p in trainer.model.policy.named_parameters() if "lora" not in name]
    assert torch.equal(torch.cat([p.detach().flatten().double() for p in frozen]), base)
    assert (tmp_path / "checkpoint-4" / "adapter_model.safetensors").is_file()
    resumed = make_trainer(tmp_path, letter_model(), **settings, num_iterations=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.global_step == 6


# The example


def test_the_example_script_evolves_trains_and_saves(tmp_path, capsys):
    script = Path(__file__).parent.parent / "examples" / "custom_loop.py"
    assert len(script.read_text().splitlines()) < 60
    problems = [sample_problem(random.Random(i), steps=1).instruction for i in range(20)]
    sizes = TinyModel(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=32)
    tokenizer = train_tokenizer(problems, vocab_size=sizes.vocab_size, fixed=fixed_parts(WIZARDMATH_PROMPT))
    tokenizer.save_pretrained(tmp_path / "start")
    make_tiny(sizes, tokenizer, seed=0).save_pretrained(tmp_path / "start")
    flags = {"model": tmp_path / "start", "output_dir": tmp_path / "out", "seeds": 10, "num_iterations": 1}
    flags |= {"rollout_batch_size": 8, "max_completion_length": 8, "save_strategy": "no", "disable_tqdm": True}
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    runpy.run_path(str(script))["main"]([*arguments, "--use_cpu"])
    assert "10 seeds became" in capsys.readouterr().out
    assert LlamaForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 16
