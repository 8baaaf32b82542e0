"""The eval stage, files to files: checkpoints and problems in, samples and metrics of each and their comparison out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_models import ProcessRewardModel
from rleif.evaluate import EvalResult, compare, evaluate_model
from rleif.pipeline.models import load_engine
from rleif.pipeline.sample import choose
from rleif.pipeline.state import write_json
from rleif.prompt_set import encode_prompts
from rleif.prompting import WIZARDMATH_PROMPT
from rleif.records import Problem
from rleif.settings import SettingsError, require_positive
from rleif.sources import read_seeds


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """Arguments of `rleif eval`.

    >>> EvalArguments(models=["sft=runs/x/sft", "ppo=runs/x/ppo"], problems="runs/x/heldout.jsonl", output_dir="eval")
    """

    models: list[str] = field(metadata={"help": "checkpoints as name=path; the first two are compared in pairs"})
    problems: str = field(metadata={"help": "JSONL of problems with answers, own or GSM8K rows"})
    output_dir: str = field(metadata={"help": "where NAME/samples.jsonl, NAME/metrics.json, comparison.json go"})
    prm: str | None = field(default=None, metadata={"help": "process reward model, for best-of-N and weighted vote"})
    num_samples: int = field(default=8, metadata={"help": "samples per problem beside the greedy completion"})
    max_problems: int | None = field(default=None, metadata={"help": "so many of them, drawn by hash; default: all"})
    temperature: float = field(default=1.0, metadata={"help": "of the samples"})
    top_p: float = field(default=1.0, metadata={"help": "of the samples"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest completion, tokens (WizardMath: 1024)"})
    max_batch_size: int = field(default=256, metadata={"help": "completions decoded together; no effect on them"})
    prompt_template: str = field(default=WIZARDMATH_PROMPT, metadata={"help": "as in SFT"})
    seed: int = field(default=0, metadata={"help": "decides samples and bootstrap"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        require_positive(self, "max_problems", "max_new_tokens", "max_batch_size")
        names = [name for name, _ in map(_split, self.models)]
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"models needs one or more different names, got {self.models}")


def _split(item: str) -> tuple[str, str]:
    name, equals, path = item.partition("=")
    if not (name and equals and path) or "/" in name:
        raise SettingsError(f"models takes name=path, got {item!r}; for example sft=runs/x/sft")
    return name, path


def eval_files(arguments: EvalArguments) -> dict[str, Any]:
    """Evaluate every model on the same problems; returns their metrics without the per-difficulty tables."""
    problems = choose(
        [problem for problem, _ in read_seeds(arguments.problems)], arguments.max_problems, arguments.seed
    )
    prm = ProcessRewardModel.from_pretrained(arguments.prm) if arguments.prm else None
    folder = Path(arguments.output_dir)
    results = []
    for name, path in map(_split, arguments.models):
        result = _evaluate(path, problems, prm, arguments)
        (folder / name).mkdir(parents=True, exist_ok=True)
        result.write(folder / name)
        results.append((name, result))
    metrics: dict[str, Any] = {name: _headline(result) for name, result in results}
    if len(results) > 1:
        (before, first), (after, second) = results[:2]
        comparison = {"before": before, "after": after, **compare(first, second, seed=arguments.seed).to_dict()}
        write_json(folder / "comparison.json", comparison)
        metrics["comparison"] = comparison
    return metrics


def _evaluate(path: str, problems: list[Problem], prm: Any, arguments: EvalArguments) -> EvalResult:
    engine, tokenizer = load_engine(path, arguments.max_batch_size)
    return evaluate_model(
        problems,
        engine,
        lambda text: encode_prompts(tokenizer, [text])[0],
        prm=prm,
        num_samples=arguments.num_samples,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        template=arguments.prompt_template,
        progress=arguments.progress,
    )


def _headline(result: EvalResult) -> dict[str, Any]:
    return {name: value for name, value in result.metrics.items() if isinstance(value, int | float)}
