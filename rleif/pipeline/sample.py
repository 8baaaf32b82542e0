"""Samples of a model, files to files: what the process reward model is trained to judge."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from rleif.prompt_set import encode_prompts
from rleif.prompting import WIZARDMATH_PROMPT, render_prompt
from rleif.records import Problem, Sampling, read_problems, stable_hash, write_jsonl
from rleif.settings import require_positive

CHUNK_PROMPTS = 256  # prompts between two updates of the progress bar


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Arguments of `rleif label samples`.

    >>> SampleArguments(model="runs/x/sft", problems="runs/x/evolve/pool.jsonl", output_file="samples.jsonl")
    """

    model: str = field(metadata={"help": "checkpoint that writes the solutions"})
    problems: str = field(metadata={"help": "JSONL of problems"})
    output_file: str = field(metadata={"help": "where the samples go"})
    num_problems: int | None = field(
        default=None, metadata={"help": "so many of the problems, drawn by hash of the id"}
    )
    num_generations: int = field(default=4, metadata={"help": "solutions per problem (WizardMath v3: 5)"})
    temperature: float = field(default=1.0, metadata={"help": "sampling temperature"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest solution, tokens"})
    max_batch_size: int = field(default=256, metadata={"help": "completions decoded together; no effect on them"})
    prompt_template: str = field(default=WIZARDMATH_PROMPT, metadata={"help": "as in SFT"})
    seed: int = field(default=0, metadata={"help": "decides problems and samples"})
    progress: bool = field(default=True, metadata={"help": "show progress bars"})

    def __post_init__(self) -> None:
        require_positive(self, "num_problems", "num_generations", "max_new_tokens", "max_batch_size")


def sample_files(arguments: SampleArguments) -> dict[str, Any]:
    """Write rows {problem_id, instruction, text, finish_reason, sample}; returns counts and the truncation rate."""
    from rleif.pipeline.models import load_engine

    engine, tokenizer = load_engine(arguments.model, arguments.max_batch_size)
    problems = choose(read_problems(arguments.problems), arguments.num_problems, arguments.seed)
    rows = list(sample_rows(engine, tokenizer, problems, arguments))
    write_jsonl(arguments.output_file, rows)
    cut = sum(row["finish_reason"] == "length" for row in rows)
    return {"problems": len(problems), "samples": len(rows), "truncation_rate": cut / len(rows)}


def choose(problems: Sequence[Problem], count: int | None, seed: int) -> list[Problem]:
    """`count` problems in the order of a hash of their ids: families are spread, and the choice outlives reordering."""
    order = sorted(problems, key=lambda problem: stable_hash(seed, "sample", problem.id))
    return order[:count]


def sample_rows(
    engine: Any, tokenizer: Any, problems: Sequence[Problem], arguments: SampleArguments
) -> Iterator[dict[str, Any]]:
    sampling = Sampling(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_new_tokens,
        num_generations=arguments.num_generations,
    )
    with tqdm(total=len(problems), desc="samples", unit="problem", disable=not arguments.progress) as bar:
        for start in range(0, len(problems), CHUNK_PROMPTS):
            chunk = problems[start : start + CHUNK_PROMPTS]
            prompts = [render_prompt(problem.instruction, arguments.prompt_template) for problem in chunk]
            keys = [stable_hash(arguments.seed, "sample", problem.id) for problem in chunk]
            completions = engine(encode_prompts(tokenizer, prompts), sampling, keys)
            for problem, group in zip(chunk, completions, strict=True):
                for index, completion in enumerate(group):
                    yield {
                        "problem_id": problem.id,
                        "instruction": problem.instruction,
                        "text": completion.text,
                        "finish_reason": completion.finish_reason,
                        "sample": index,
                    }
            bar.update(len(chunk))
