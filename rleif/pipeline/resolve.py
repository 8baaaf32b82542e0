"""From the user's configuration to each stage's own: paths and seed filled in, every key and type checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rleif.pipeline.stages import NAMES, STAGES, Stage
from rleif.records import DataError
from rleif.settings import SettingsError, build, check_names, check_values, field_types
from rleif.sources import resolve_data

RUN = "{run}"


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Section `run` of a configuration.

    >>> RunArguments(output_dir="runs/gsm8k", seed=0, threads=1)
    """

    output_dir: str = field(metadata={"help": "run directory: everything goes there"})
    seed: int = field(default=0, metadata={"help": "seed of every stage that is given none"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; default: torch's choice"})
    stages: list[str] = field(default_factory=lambda: list(NAMES), metadata={"help": "stages to run; default: all"})
    accelerate_config: str | None = field(
        default=None, metadata={"help": "accelerate config file; training stages are then launched with it"}
    )

    def __post_init__(self) -> None:
        check_names(self.stages, NAMES, "stage")
        if not self.stages:
            raise ValueError("run.stages is empty; name at least one stage")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"run.threads must be at least 1, got {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A stage with its resolved values.

    >>> Job(stage=stage_by_name("irm"), values={"model": "runs/x/sft", "output_dir": "runs/x/irm", ...})
    """

    stage: Stage
    values: Mapping[str, Any]
    folder: Path  # the run directory

    def inputs(self) -> list[Path]:
        """The paths that the values name. One that does not exist is a hub id, or not made yet."""
        items: list[str] = []
        for value in (self.values.get(key) for key in self.stage.reads):
            items += [value] if isinstance(value, str) else value or []
        named = [_existing(item.partition("=")[2] or item) for item in items]  # some are name=path
        return named + [self.folder / path for path in self.stage.reads_in_run]

    def outputs(self) -> list[Path]:
        return [self.folder / path for path in self.stage.outputs]


def read_run(config: Mapping[str, Any]) -> RunArguments:
    """Section `run`, and a check of the names of all sections."""
    check_names(config, ("run", *NAMES), "section")
    if not isinstance(config.get("run"), Mapping):
        raise SettingsError("the configuration needs a section 'run' with at least output_dir")
    return build([RunArguments], config["run"], "run")[0]


def resolve(config: Mapping[str, Any]) -> tuple[RunArguments, list[Job]]:
    """The run's settings and its jobs in order.

    Raises SettingsError for an unknown section or key, a value of the wrong type, or a key that the pipeline decides.
    """
    run = read_run(config)
    jobs = []
    for stage in STAGES:
        given = config.get(stage.name)
        if given is not None and not isinstance(given, Mapping):
            raise SettingsError(f"section {stage.name!r} must be a mapping of keys to values, found {given!r}")
        if given or stage.name in run.stages:
            # A section of a stage that does not run is checked all the same: a slip in it is a slip.
            values = _values(stage, given or {}, run)
            jobs.append(Job(stage=stage, values=values, folder=Path(run.output_dir)))
    return run, [job for job in jobs if job.stage.name in run.stages]


def _values(stage: Stage, given: Mapping[str, Any], run: RunArguments) -> dict[str, Any]:
    _, kinds = stage.load()
    check_values(kinds, given, stage.name)
    if refused := sorted(given.keys() & stage.decided.keys()):
        raise SettingsError(f"{stage.name}.{refused[0]} is decided by the run; set run.output_dir instead")
    filled = {key: _fill(value, run) for key, value in {**stage.defaults, **stage.decided}.items()}
    if "seed" in field_types(kinds):
        filled["seed"] = run.seed
    return {key: value for key, value in filled.items() if value is not None} | dict(given)


def _fill(value: Any, run: RunArguments) -> Any:
    """The value with the run directory in it; None (or an item less) for what a stage that is left out would make."""
    if isinstance(value, list):
        return [item for item in (_fill(item, run) for item in value) if item is not None]
    if not isinstance(value, str) or RUN not in value:
        return value
    path = value.partition(RUN)[2].lstrip("/")
    maker = next((stage for stage in STAGES if path and any(_within(path, made) for made in stage.outputs)), None)
    filled = value.replace(RUN, run.output_dir)
    exists = Path(run.output_dir, path).exists()
    return filled if maker is None or maker.name in run.stages or exists else None


def _existing(path: str) -> Path:
    try:
        return resolve_data(path)
    except DataError:
        return Path(path)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def dependents(name: str, jobs: Sequence[Job]) -> list[str]:
    """The stage and every later one that reads, directly or not, what it makes."""
    stale = {name}
    for job in jobs:
        made = [path for other in jobs if other.stage.name in stale for path in other.outputs()]
        if any(path.is_relative_to(folder) for path in job.inputs() for folder in made):
            stale.add(job.stage.name)
    return [job.stage.name for job in jobs if job.stage.name in stale]
