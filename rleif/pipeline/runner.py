"""`rleif run`: every stage of a configuration once, in order, in one run directory.

stage done, same configuration, same inputs     -> skipped
stage done, other configuration                 -> refused, the keys named, unless forced
stage half done, same configuration and inputs  -> a training continues from its checkpoint, others start over
"""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from rleif.memory import Launch, read_launch
from rleif.pipeline.lock import locked
from rleif.pipeline.resolve import Job, RunArguments, dependents, resolve
from rleif.pipeline.stages import NAMES
from rleif.pipeline.state import (
    Done,
    changes,
    forget,
    hash_inputs,
    read_done,
    state_path,
    write_done,
    write_json,
)
from rleif.settings import SettingsError, build, check_names, explicit, load_yaml

Say = Callable[[str], None]


class ConfigChangedError(SettingsError):
    """A stage was done with another configuration than the one given now."""


def run(
    config: str | Path | Mapping[str, Any],
    *,
    force: Sequence[str] = (),
    restart_from: str | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Run all stages of a configuration (a YAML path or its content) and return the content of results.json.

    force: stages to run again, with all that depend on them. restart_from: this stage and every later one.
    Raises SettingsError before anything runs where the configuration cannot be used, RunLockedError while another run
    holds the directory.
    """
    say = say or (lambda text: print(text, flush=True))
    content = load_yaml(config) if isinstance(config, str | Path) else config
    settings = content.get("run")
    pin_threads(settings.get("threads") if isinstance(settings, Mapping) else None)
    arguments, jobs = resolve(content)
    _check_alone()
    launch = read_launch(arguments.accelerate_config)
    for job in jobs:
        check_share(job, build_arguments(job), launch)  # what a dataclass refuses is told now, not hours later
    folder = Path(arguments.output_dir)
    with locked(folder):
        _forget_forced(folder, jobs, force, restart_from)
        _check_unchanged(folder, jobs)
        save_config(folder, content)
        made: set[str] = set()
        for number, job in enumerate(jobs, start=1):
            if _do(folder, job, arguments, made, lambda text, n=number: say(f"[{n}/{len(jobs)}] {text}")):
                made.add(job.stage.name)
        from rleif.report import write_report

        return write_report(folder, seed=arguments.seed, say=say)


def pin_threads(threads: int | None) -> None:
    """Use so many CPU threads. Before torch is imported this also holds for its worker processes."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == 1 else "true")
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def _check_alone() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "rleif run is one process: start it without a launcher and name the launch in run.accelerate_config, so "
            "that the training stages use all processes. A single stage can be launched by itself: "
            "accelerate launch -m rleif ppo --config ..."
        )


def build_arguments(job: Job) -> tuple[Any, ...]:
    """The stage's argument dataclasses."""
    return build(job.stage.load()[1], job.values, job.stage.name)


def check_share(job: Job, built: Sequence[Any], launch: Launch) -> None:
    """Raises SettingsError for what the processes of the launch cannot share: PPO's sizes, unless they divide evenly,
    and Muon's matrices under DeepSpeed."""
    if launch.zero_stage and getattr(built[-1], "muon_learning_rate", None) is not None:
        raise SettingsError(
            f"{job.stage.name}: muon_learning_rate needs whole matrices, which ZeRO-{launch.zero_stage} of "
            "run.accelerate_config divides: leave one of them out"
        )
    if job.stage.name == "ppo":
        try:
            built[-1].require_even_share(launch.processes)
        except ValueError as error:
            raise SettingsError(f"ppo: {error}, which run.accelerate_config starts") from None


def _forget_forced(folder: Path, jobs: Sequence[Job], force: Sequence[str], restart_from: str | None) -> None:
    names = [job.stage.name for job in jobs]
    check_names([*force, *filter(None, [restart_from])], names, "stage")
    again = {name for forced in force for name in dependents(forced, jobs)}
    if restart_from is not None:
        again |= set(names[names.index(restart_from) :])
    for job in jobs:
        if job.stage.name in again:
            forget(folder, job.stage.name)
            _remove_outputs(folder, job)


def _check_unchanged(folder: Path, jobs: Sequence[Job]) -> None:
    """Raises ConfigChangedError that names every changed key of every done stage."""
    told = []
    for job in jobs:
        done = read_done(folder, job.stage.name)
        found = changes(done.config, _explicit(job)) if done else []
        told += [f"{job.stage.name}.{change}" for change in found]
    if told:
        first = told[0].partition(".")[0]
        raise ConfigChangedError(
            f"{folder} holds results of another configuration: {'; '.join(told)}. Give another run.output_dir, or "
            f"say --force {first} (that stage and what depends on it) or --restart-from {first} (all later stages too)"
        )


def _explicit(job: Job) -> dict[str, Any]:
    return explicit(job.stage.load()[1], job.values)


def save_config(folder: Path, content: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def _do(folder: Path, job: Job, arguments: RunArguments, made: set[str], say: Say) -> bool:
    """Run one stage unless it is done; True when it ran."""
    name = job.stage.name
    inputs = hash_inputs(folder, job.inputs())
    done = read_done(folder, name)
    if done is not None and not (stale := changes(done.inputs, inputs)):
        say(f"{name}: done before, {done.seconds:.0f} s")
        return False
    if done is not None:
        if not made:
            raise ConfigChangedError(
                f"{folder}: stage {name!r} was done with other input files: {'; '.join(stale)}. Say --force {name} "
                "to do it again with what depends on it"
            )
        say(f"{name}: an input was made anew, so this stage is too")
    _prepare(folder, job, inputs)
    say(f"{name} ...")
    start = time.monotonic()
    metrics = _call(folder, job, arguments)
    seconds = time.monotonic() - start
    _free_memory()
    write_done(
        folder,
        Done(
            stage=name,
            config=_explicit(job),
            inputs=inputs,
            outputs=tuple(path for path in job.stage.outputs if (folder / path).exists()),
            metrics=metrics,
            seconds=round(seconds, 2),
        ),
    )
    _started_path(folder, name).unlink(missing_ok=True)
    say(f"{name}: {seconds:.0f} s")
    return True


def _free_memory() -> None:
    """Models in reference cycles would stay beside those of the next stage, and the memory they had on a GPU would be
    missing to the processes of a launch."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _prepare(folder: Path, job: Job, inputs: Mapping[str, str]) -> None:
    """Clear what an interrupted attempt left, except a training of the same configuration and inputs."""
    forget(folder, job.stage.name)
    attempt = {"config": _explicit(job), "inputs": inputs}
    path = _started_path(folder, job.stage.name)
    before = load_yaml(path) if path.is_file() else None  # JSON is YAML
    same = before is not None and not changes(before["config"], attempt["config"]) and before["inputs"] == inputs
    if not (job.stage.is_training and same):
        _remove_outputs(folder, job)
    write_json(path, attempt)
    text = yaml.safe_dump(dict(job.values), sort_keys=False, allow_unicode=True)
    _stage_config(folder, job.stage.name).write_text(text, encoding="utf-8")


def _started_path(folder: Path, name: str) -> Path:
    return state_path(folder, f"{name}.started")


def _stage_config(folder: Path, name: str) -> Path:
    return folder / "state" / f"{name}.yaml"


def _remove_outputs(folder: Path, job: Job) -> None:
    for path in (folder / name for name in job.stage.outputs):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _call(folder: Path, job: Job, arguments: RunArguments) -> dict[str, Any]:
    if job.stage.is_training and arguments.accelerate_config:
        return _launch(folder, job, arguments.accelerate_config)
    function, _ = job.stage.load()
    _quiet_loading()
    with _own_tracking():
        return function(*build_arguments(job))


@contextmanager
def _own_tracking() -> Iterator[None]:
    """Each stage is a run of its own in wandb, where the next one would else log into the run of the one before."""
    was_open = _open_wandb_run() is not None
    yield
    run = None if was_open else _open_wandb_run()
    if run is not None:
        run.finish()


def _open_wandb_run() -> Any:
    wandb = sys.modules.get("wandb")
    return None if wandb is None else wandb.run


def _quiet_loading() -> None:
    """Hide the bars of loading weights and mapping rows, which bury the bars of sampling and training."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


def _launch(folder: Path, job: Job, accelerate_config: str) -> dict[str, Any]:
    """The stage on all processes of an accelerate configuration."""
    name = job.stage.name
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", accelerate_config]
    command += ["-m", "rleif", name, "--config", str(_stage_config(folder, name))]
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise ChildFailedError(f"stage {name!r} ended with exit code {result.returncode}: {' '.join(command)}")
    return load_yaml(folder / job.stage.outputs[0] / "metrics.json")


class ChildFailedError(RuntimeError):
    """A launched stage failed; what it printed says why."""


__all__ = ["NAMES", "ChildFailedError", "ConfigChangedError", "run"]
