"""What is remembered of a stage that was done: configuration, inputs by hash, what it made, how long it took."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SAMPLED_ABOVE_BYTES = 256 * 2**20
BLOCK_BYTES = 2**20

# fmt: off
WITHOUT_EFFECT = frozenset((
    "progress", "concurrency", "disable_tqdm", "log_level", "log_level_replica", "logging_dir", "logging_first_step",
    "logging_steps", "logging_strategy", "report_to", "run_name", "project", "save_steps", "save_strategy",
    "save_total_limit", "save_on_each_node", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "num_logged_completions", "rollout_max_batch_size",
    "local_rollout_forward_batch_size", "max_batch_size", "prm_batch_size", "per_device_eval_batch_size",
))
# fmt: on
"""Keys that change how a stage shows or stores its work, not what it makes; changing one asks for nothing again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The content of `state/<stage>.json`.

    >>> Done(
    ...     stage="sft",
    ...     config={"model": "tiny"},
    ...     inputs={"label/answers.jsonl": "9f..."},
    ...     outputs=("sft",),
    ...     metrics={"rows": 5000},
    ...     seconds=41.7,
    ... )
    """

    stage: str
    config: Mapping[str, Any]  # values that differ from the defaults
    inputs: Mapping[str, str]  # path to hash, of every file or folder the stage read
    outputs: tuple[str, ...]  # paths that must exist for the stage to count as done
    metrics: Mapping[str, Any]
    seconds: float


def state_path(run: Path, stage: str) -> Path:
    return run / "state" / f"{stage}.json"


def read_done(run: Path, stage: str) -> Done | None:
    """The record, or None when the stage has none or something it made is gone."""
    path = state_path(run, stage)
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        done = Done(**row | {"outputs": tuple(row["outputs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not readable ({error}); delete it to run the stage again") from None
    return done if all((run / name).exists() for name in done.outputs) else None


def write_done(run: Path, done: Done) -> None:
    write_json(state_path(run, done.stage), asdict(done))


def forget(run: Path, stage: str) -> None:
    state_path(run, stage).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, in words; keys without effect on the result are left out."""
    found = []
    for name in sorted((old.keys() | new.keys()) - WITHOUT_EFFECT):
        # Through JSON, as the old one went: a tuple is a list there.
        before, after = (json.dumps(values[name]) if name in values else "its default" for values in (old, new))
        if before != after:
            found.append(f"{name} was {before}, is now {after}")
    return found


def hash_inputs(run: Path, paths: Iterable[str | Path]) -> dict[str, str]:
    """Hash by path; paths inside the run directory are written relative to it, so that it can be moved."""
    found = {}
    for path in map(Path, paths):
        name = str(path.relative_to(run)) if path.is_relative_to(run) else str(path)
        if path.exists():
            found[name] = hash_path(path)
    return found


def hash_path(path: Path) -> str:
    """Hash of a file, or of the weights, tokenizer and configuration in a checkpoint folder."""
    if path.is_file():
        return _hash_file(path)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path.iterdir()):
        if file.is_file() and (file.suffix == ".safetensors" or file.name in CHECKPOINT_FILES):
            digest.update(f"{file.name} {_hash_file(file)}\n".encode())
    return digest.hexdigest()


CHECKPOINT_FILES = ("config.json", "tokenizer.json", "tokenizer.model", "adapter_config.json", "reward_model.json")


def _hash_file(path: Path) -> str:
    """Of the whole file; of a large one (weights of billions of parameters) its size and 64 evenly spaced blocks."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= SAMPLED_ABOVE_BYTES:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        else:
            for index in range(64):
                file.seek(index * (size - BLOCK_BYTES) // 63)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
