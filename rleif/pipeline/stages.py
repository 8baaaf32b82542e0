"""The table of stages: which function, which arguments, which files it reads and makes. Everything else reads it here.

`{run}` in a value stands for the run directory. Nothing heavy is imported until a stage's `load` is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: a function from files to files.

    >>> Stage(
    ...     name="irm",
    ...     function="reward_models.irm:train_irm",
    ...     kinds=("reward_models.irm:IRMArguments",),
    ...     decided={"output_dir": "{run}/irm"},
    ...     reads=("model",),
    ...     outputs=("irm",),
    ... )
    """

    name: str  # also the section of the configuration
    function: str  # module:name, called with one instance of each kind
    kinds: tuple[str, ...]  # module:name of the argument dataclasses
    decided: Mapping[str, Any] = field(default_factory=dict)  # set by the pipeline, not to be configured
    defaults: Mapping[str, Any] = field(default_factory=dict)  # set by the pipeline unless configured
    reads: tuple[str, ...] = ()  # keys whose values are paths (or hub ids)
    reads_in_run: tuple[str, ...] = ()  # files that it finds by itself in the run directory
    outputs: tuple[str, ...] = ()  # what it makes, in the run directory
    is_training: bool = False  # runs on every process of a launch, and continues from its last checkpoint
    command: str | None = None  # the `rleif` command that runs it alone, where the name differs

    def load(self) -> tuple[Callable[..., dict[str, Any]], tuple[type, ...]]:
        """The function and its argument dataclasses, imported now."""
        return load_name(self.function), tuple(map(load_name, self.kinds))


def load_name(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


PROMPTS = "{run}/evolve/pool.jsonl"
HELDOUT = "{run}/heldout.jsonl"

STAGES = (
    Stage(
        name="evolve",
        function="rleif.evolution.files:evolve_files",
        kinds=("rleif.evolution.files:EvolveArguments",),
        decided={"output_dir": "{run}"},
        reads=("seeds", "heldout", "test_files"),
        outputs=("seeds.jsonl", "heldout.jsonl", "evolve"),
    ),
    Stage(
        name="answers",
        function="rleif.labeling:label_answers",
        kinds=("rleif.labeling:AnswerArguments",),
        decided={"output_dir": "{run}"},
        reads_in_run=("evolve/pool.jsonl",),
        outputs=("label/answers.jsonl", "label/answers_rejected.jsonl"),
        command="label answers",
    ),
    Stage(
        name="sft",
        function="rleif.sft:train_sft",
        kinds=("rleif.sft:SFTArguments", "rleif.sft:SFTConfig"),
        decided={"output_dir": "{run}/sft"},
        defaults={"train_files": ["{run}/label/answers.jsonl"]},
        reads=("model", "train_files", "eval_file"),
        outputs=("sft",),
        is_training=True,
    ),
    Stage(
        name="samples",
        function="rleif.pipeline.sample:sample_files",
        kinds=("rleif.pipeline.sample:SampleArguments",),
        decided={"output_file": "{run}/label/samples.jsonl"},
        defaults={"model": "{run}/sft", "problems": PROMPTS},
        reads=("model", "problems"),
        outputs=("label/samples.jsonl",),
        command="label samples",
    ),
    Stage(
        name="ranks",
        function="rleif.labeling:label_ranks",
        kinds=("rleif.labeling:RankArguments",),
        decided={"output_dir": "{run}"},
        reads_in_run=("evolve/pool.jsonl",),
        outputs=("label/ranked.jsonl", "label/ranked_heldout.jsonl"),
        command="label ranks",
    ),
    Stage(
        name="steps",
        function="rleif.labeling:label_steps",
        kinds=("rleif.labeling:StepArguments",),
        decided={"output_dir": "{run}"},
        defaults={"samples": "{run}/label/samples.jsonl"},
        reads=("samples",),
        reads_in_run=("evolve/pool.jsonl",),
        outputs=("label/stepped.jsonl", "label/stepped_heldout.jsonl"),
        command="label steps",
    ),
    Stage(
        name="irm",
        function="reward_models.irm:train_irm",
        kinds=("reward_models.irm:IRMArguments", "reward_models.irm:IRMConfig"),
        decided={"output_dir": "{run}/irm"},
        defaults={
            "model": "{run}/sft",
            "train_file": "{run}/label/ranked.jsonl",
            "eval_file": "{run}/label/ranked_heldout.jsonl",
        },
        reads=("model", "train_file", "eval_file"),
        outputs=("irm",),
        is_training=True,
    ),
    Stage(
        name="prm",
        function="reward_models.prm:train_prm",
        kinds=("reward_models.prm:PRMArguments", "reward_models.prm:PRMConfig"),
        decided={"output_dir": "{run}/prm"},
        defaults={
            "model": "{run}/sft",
            "train_file": "{run}/label/stepped.jsonl",
            "eval_file": "{run}/label/stepped_heldout.jsonl",
        },
        reads=("model", "train_file", "eval_file"),
        outputs=("prm",),
        is_training=True,
    ),
    Stage(
        name="ppo",
        function="rleif.pipeline.ppo:train_ppo",
        kinds=("rleif.pipeline.ppo:PPOArguments", "rleif.config:RLEIFConfig"),
        decided={"output_dir": "{run}/ppo"},
        defaults={"model": "{run}/sft", "irm": "{run}/irm", "prm": "{run}/prm", "train_file": PROMPTS},
        reads=("model", "irm", "prm", "value_model", "train_file", "eval_file"),
        outputs=("ppo",),
        is_training=True,
    ),
    Stage(
        name="eval",
        function="rleif.pipeline.evaluation:eval_files",
        kinds=("rleif.pipeline.evaluation:EvalArguments",),
        decided={"output_dir": "{run}/eval"},
        defaults={"models": ["sft={run}/sft", "ppo={run}/ppo"], "prm": "{run}/prm", "problems": HELDOUT},
        reads=("models", "prm", "problems"),
        outputs=("eval",),
    ),
)

NAMES = tuple(stage.name for stage in STAGES)


def stage_by_name(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)
