"""A world of letters for the tests of PPO: the smallest tokenizer, policy and reward models the trainer accepts."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rleif import RLEIFConfig, RLEIFTrainer

LETTERS = "abcdefgh"
EOS_ID = 1


def letter_tokenizer(pad: str | None = "<pad>") -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token=pad)


def letter_model(seed: int = 0, hidden_size: int = 16, **settings: Any) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=2 + len(LETTERS),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
            eos_token_id=EOS_ID,
            bos_token_id=None,
            **settings,
        )
        return LlamaForCausalLM(config).eval()


def letter_gpt2() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=2 + len(LETTERS), eos_token_id=EOS_ID, bos_token_id=0, **sizes)
        ).eval()


class ScriptedPRM:
    """One step per solution, scored by a function of its text."""

    def __init__(self, score: Callable[[str], float]) -> None:
        self.score = score

    def score_steps(self, instructions: Sequence[str], solutions: Sequence[str]) -> list[tuple[float, ...]]:
        return [(self.score(solution),) for solution in solutions]


class StepAtEachC:
    """Every "c" ends a step, and every step has the same score, or NaN in a text that cannot be scored."""

    def __init__(self, score: float, is_spoiled: Callable[[str], bool] = lambda text: False) -> None:
        self.score = score
        self.is_spoiled = is_spoiled

    def score_steps(self, instructions: Sequence[str], solutions: Sequence[str]) -> list[SimpleNamespace]:
        ends = [[i + 1 for i, letter in enumerate(text) if letter == "c"] for text in solutions]
        scores = [math.nan if self.is_spoiled(text) else self.score for text in solutions]
        return [
            SimpleNamespace(scores=(score,) * len(row), steps=[SimpleNamespace(end=end) for end in row])
            for score, row in zip(scores, ends, strict=True)
        ]


class ScriptedIRM:
    def __init__(self, score: Callable[[str], float]) -> None:
        self.rule = score
        self.asked: list[str] = []

    def score(self, instructions: Sequence[str]) -> list[float]:
        self.asked.extend(instructions)
        return [self.rule(instruction) for instruction in instructions]


def share_of_c(text: str) -> float:
    return text.split().count("c") / 6


def prompts(count: int = 8) -> list[dict[str, str]]:
    return [{"prompt": " ".join(LETTERS[(i + j) % 8] for j in range(1 + i % 3)), "answer": "c"} for i in range(count)]


def make_config(folder: Any, **settings: Any) -> RLEIFConfig:
    defaults: dict[str, Any] = {
        "num_iterations": 2,
        "rollout_batch_size": 16,
        "num_generations": 4,
        "num_mini_batches": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return RLEIFConfig(output_dir=str(folder), **(defaults | settings))


def make_trainer(folder: Any, model: Any = None, **given: Any) -> RLEIFTrainer:
    """Settings of RLEIFConfig and arguments of RLEIFTrainer, in one."""
    arguments = {"prm", "irm", "train_dataset", "eval_dataset", "processing_class", "value_model", "ref_model"}
    arguments |= {"peft_config", "callbacks", "combine", "grade", "engine"}
    own = {name: given.pop(name) for name in list(given) if name in arguments}
    return RLEIFTrainer(
        model if model is not None else letter_model(),
        args=make_config(folder, **given),
        **{
            "prm": ScriptedPRM(share_of_c),
            "train_dataset": prompts(),
            "processing_class": letter_tokenizer(),
            "grade": lambda solutions, answers: [s.startswith(a) for s, a in zip(solutions, answers, strict=True)],
        }
        | own,
    )


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


def logged(trainer: RLEIFTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def three_iterations(folder: Any) -> RLEIFTrainer:
    """A run that one process and several must agree on; one reward is NaN, so a process has less to sum."""
    prm = ScriptedPRM(lambda text: float("nan") if text.startswith("a b") else share_of_c(text))
    settings = {"num_iterations": 3, "num_ppo_epochs": 2, "learning_rate": 1e-3, "eval_dataset": prompts(3)}
    trainer = make_trainer(folder, prm=prm, per_device_train_batch_size=3, max_nonfinite=9, **settings)
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    finished = three_iterations(sys.argv[1])
    if finished.is_world_process_zero():
        Path(sys.argv[1], "log.json").write_text(json.dumps(finished.state.log_history))
    torch.distributed.destroy_process_group()
