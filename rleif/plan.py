"""`rleif run --dry-run`: check a configuration and say what it would do: stages, rows, optimizer steps, memory.

Row counts come from files where they exist, and are upper bounds ("<=") for what is not made yet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reward_models.losses import TOKENS_AT_A_TIME
from rleif.evolution.schedules import wizardmath_v1, wizardmath_v3
from rleif.memory import (
    GIB,
    Launch,
    Shape,
    activation_bytes,
    next_token_bytes,
    read_launch,
    shape_of,
    shape_of_config,
    training_bytes,
)
from rleif.pipeline.resolve import Job, RunArguments, resolve
from rleif.pipeline.runner import build_arguments, check_share, pin_threads
from rleif.pipeline.state import changes, read_done
from rleif.records import DataError
from rleif.settings import explicit
from rleif.sources import resolve_data
from rleif.tiny import TINY, tiny_config

FROZEN_SCORER_BYTES = 2  # bf16
REFERENCE_BYTES = 4  # it is a copy of the fp32 policy; DeepSpeed has that in bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What the plan says of one stage.

    >>> Line(stage="sft", work="<= 9000 rows", steps=846, memory=41.3, is_done=False)
    """

    stage: str
    work: str
    steps: int | None = None  # optimizer steps
    memory: float | None = None  # GiB per GPU
    is_done: bool = False


def plan(content: Mapping[str, Any]) -> str:
    """The plan as text. Raises SettingsError where the configuration cannot be used."""
    settings = content.get("run")
    pin_threads(settings.get("threads") if isinstance(settings, Mapping) else None)
    run, jobs = resolve(content)
    launch = read_launch(run.accelerate_config)
    planner = _Planner(run, launch)
    lines = [planner.line(job) for job in jobs]
    where = f"{launch.processes} process{'es' if launch.processes > 1 else ''}"
    where += f", ZeRO-{launch.zero_stage}" if launch.zero_stage else ""
    title = f"Plan of {run.output_dir} (seed {run.seed}; {where})"
    return "\n".join([title, "", *_table(lines), *(f"note: {note}" for note in planner.notes)])


def _table(lines: list[Line]) -> list[str]:
    rows = [("stage", "work", "optimizer steps", "GiB per GPU", "")]
    for line in lines:
        steps = "" if line.steps is None else str(line.steps)
        memory = "" if line.memory is None else f"{line.memory:.1f}" if line.memory >= 0.1 else "< 0.1"
        rows.append((line.stage, line.work, steps, memory, "done" if line.is_done else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _without_precision(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run for GPUs can be planned on a machine without one, where transformers refuses these."""
    return {name: value for name, value in values.items() if name not in ("bf16", "fp16", "tf32")}


def _evolutions_per_seed(arguments: Any) -> int:
    if arguments.schedule == "wizardmath_v1":
        return wizardmath_v1(arguments.evolutions_per_round).evolutions_per_seed
    return wizardmath_v3(arguments.evolutions_per_round, arguments.chains).evolutions_per_seed


class _Planner:
    """Carries row counts and model shapes from stage to stage."""

    def __init__(self, run: RunArguments, launch: Launch) -> None:
        self.folder = Path(run.output_dir)
        self.launch = launch
        self.rows: dict[str, int] = {}  # path to upper bound, for files not made yet
        self.shapes: dict[str, Shape] = {}
        self.list_size = 1  # instructions of one row of the IRM's data
        self.notes: list[str] = []

    def line(self, job: Job) -> Line:
        arguments = build_arguments(replace(job, values=_without_precision(job.values)))
        check_share(job, arguments, self.launch)
        name = job.stage.name
        done = read_done(self.folder, name)
        is_done = done is not None and not changes(done.config, explicit(job.stage.load()[1], job.values))
        found = getattr(self, f"_{name}")(*arguments)
        return Line(stage=name, is_done=is_done, **found)

    def count(self, path: str | Path) -> int:
        """Rows of a file, or the bound for one that an earlier stage will write."""
        try:
            file = resolve_data(path)
        except DataError:
            if str(path) not in self.rows:
                raise
            return self.rows[str(path)]
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())

    def promise(self, name: str, rows: int) -> None:
        self.rows[str(self.folder / name)] = rows

    def shape(self, model: str) -> Shape | None:
        if model not in self.shapes:
            found = shape_of(model)
            if found is None:
                self.notes.append(f"the size of {model!r} is not known here (no such path, or no network): no estimate")
                return None
            self.shapes[model] = found
        return self.shapes[model]

    # One method a stage, each returning the fields of its Line

    def _evolve(self, arguments: Any) -> dict[str, Any]:
        heldout = arguments.num_heldout
        if arguments.heldout is not None:
            heldout = min(self.count(arguments.heldout), heldout or math.inf)
        seeds = arguments.num_seeds
        if arguments.seeds is not None:
            own = arguments.num_heldout if arguments.heldout is None else 0
            seeds = min(self.count(arguments.seeds) - own, seeds or math.inf)
        tried = 0 if arguments.teacher == "none" else int(seeds) * _evolutions_per_seed(arguments)
        self.promise("seeds.jsonl", int(seeds))
        self.promise("heldout.jsonl", int(heldout))
        self.promise("evolve/pool.jsonl", int(seeds) + tried)
        return {"work": f"{int(seeds)} seeds, {tried} evolutions tried, {int(heldout)} held out"}

    def _pool(self, limit: int | None = None) -> int:
        pool = self.count(self.folder / "evolve/pool.jsonl")
        return pool if limit is None else min(limit, pool)

    def _answers(self, arguments: Any) -> dict[str, Any]:
        rows = self._pool(arguments.max_problems)
        self.promise("label/answers.jsonl", rows)
        return {"work": f"<= {rows} solutions"}

    def _sft(self, arguments: Any, config: Any) -> dict[str, Any]:
        rows = sum(map(self.count, arguments.train_files))
        rows = min(rows, arguments.max_rows or rows)
        if arguments.model == TINY:
            self.shapes[TINY] = shape_of_config(tiny_config(arguments.tiny()))
        shape = self.shape(arguments.model)
        if shape is not None:
            self.shapes[str(config.output_dir)] = shape
        # The loss is fused with the output layer, but one row's logits are still a fair bound of its chunks.
        memory = self._training(shape, config, config.max_length)
        return {"work": f"<= {rows} rows", "steps": self.optimizer_steps(rows, config), "memory": memory}

    def _samples(self, arguments: Any) -> dict[str, Any]:
        rows = self._pool(arguments.num_problems)
        self.promise("label/samples.jsonl", rows * arguments.num_generations)
        return {"work": f"<= {rows} problems x {arguments.num_generations} samples"}

    def _ranks(self, arguments: Any) -> dict[str, Any]:
        units = self._pool() if arguments.teacher == "none" else self.count(self.folder / "seeds.jsonl")
        lists = units * arguments.lists_per_root
        lists = min(lists, arguments.max_lists or lists)
        self.list_size = arguments.list_size
        self._split("ranked", lists, arguments.heldout_fraction)
        return {"work": f"<= {lists} lists of {arguments.list_size}"}

    def _steps(self, arguments: Any) -> dict[str, Any]:
        rows = self._pool(arguments.max_problems) * (1 + arguments.corruptions_per_problem)
        rows += self.count(arguments.samples) if arguments.samples else 0
        self._split("stepped", rows, arguments.heldout_fraction)
        return {"work": f"<= {rows} solutions"}

    def _split(self, name: str, rows: int, heldout_fraction: float) -> None:
        self.promise(f"label/{name}.jsonl", rows - round(rows * heldout_fraction))
        self.promise(f"label/{name}_heldout.jsonl", round(rows * heldout_fraction))

    def _irm(self, arguments: Any, config: Any) -> dict[str, Any]:
        return self._reward(arguments, config, self.list_size)

    def _prm(self, arguments: Any, config: Any) -> dict[str, Any]:
        most = config.solutions_per_row
        line = self._reward(arguments, config, most)
        if most > 1:
            solutions = self.count(arguments.train_file)
            self.notes.append(f"prm: its steps are those of full rows, {most} solutions each; there may be more")
            steps = self.optimizer_steps(math.ceil(solutions / most), config)
            line |= {"work": f"<= {solutions} solutions, up to {most} a row", "steps": steps}
        return line

    def _reward(self, arguments: Any, config: Any, texts_a_row: int) -> dict[str, Any]:
        rows = self.count(arguments.train_file)
        shape, head = self.shape(arguments.model), 0.0
        if shape is not None:
            self.shapes[str(config.output_dir)] = shape
            head = next_token_bytes(shape, TOKENS_AT_A_TIME) / GIB if config.lm_coef else 0.0
            shape = replace(shape, vocab_size=1)  # one score in place of logits
        memory = self._training(shape, config, config.max_length, texts_a_row)
        memory = None if memory is None else memory + head
        return {"work": f"<= {rows} rows", "steps": self.optimizer_steps(rows, config), "memory": memory}

    def _ppo(self, arguments: Any, config: Any) -> dict[str, Any]:
        prompts = self.count(arguments.train_file)
        prompts = min(prompts, arguments.max_rows or prompts)
        iterations = config.iterations(prompts)
        policy, critic = self.shape(arguments.model), self.shape(arguments.value_model or arguments.model)
        memory = None
        if policy is not None and critic is not None:
            memory = training_bytes(policy.parameters, self.launch) + training_bytes(critic.parameters, self.launch)
            memory += max(self._activations(policy, config, 2 * config.max_completion_length), self._sampling(policy))
            reference = FROZEN_SCORER_BYTES if self.launch.zero_stage else REFERENCE_BYTES
            memory += policy.parameters * reference if config.kl_coef else 0
            for scorer in filter(None, (arguments.irm, arguments.prm)):
                found = self.shape(scorer)
                memory += found.parameters * FROZEN_SCORER_BYTES if found else 0
            memory /= GIB
        work = f"<= {prompts} prompts, {iterations} iterations x {config.rollout_batch_size} samples"
        return {"work": work, "steps": iterations * config.steps_per_iteration, "memory": memory}

    def _eval(self, arguments: Any) -> dict[str, Any]:
        rows = self.count(arguments.problems)
        rows = min(rows, arguments.max_problems or rows)
        samples = arguments.num_samples
        return {"work": f"{rows} problems x (1 greedy + {samples} samples) x {len(arguments.models)} models"}

    def optimizer_steps(self, rows: int, config: Any) -> int:
        """Optimizer steps as Trainer counts them: the last, partial accumulation of an epoch is a step."""
        if config.max_steps > 0:
            return config.max_steps
        batches = math.ceil(rows / (config.per_device_train_batch_size * self.launch.processes))
        per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
        return math.ceil(per_epoch * config.num_train_epochs)

    def _training(self, shape: Shape | None, config: Any, tokens: int | None, texts_a_row: int = 1) -> float | None:
        """GiB of one trained model and a micro-batch of texts as long as they may be."""
        if shape is None:
            return None
        return (
            training_bytes(shape.parameters, self.launch) + self._activations(shape, config, tokens, texts_a_row)
        ) / GIB

    def _activations(self, shape: Shape, config: Any, tokens: int | None, texts_a_row: int = 1) -> float:
        recomputes = bool(getattr(config, "activation_checkpointing", None) or config.gradient_checkpointing)
        rows = config.per_device_train_batch_size * texts_a_row
        return activation_bytes(shape, rows, tokens or 2048, recomputes=recomputes)

    def _sampling(self, policy: Shape) -> float:
        """Under ZeRO-3 the policy is put together to sample. Its keys and values are not counted."""
        return policy.parameters * 2.0 if self.launch.zero_stage == 3 else 0.0
