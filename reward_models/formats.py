"""How a reward model reads its input: the JSON that travels beside the weights, in `reward_model.json`."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from reward_models.evaluate import Aggregation
from reward_models.records import ON_THE_RIGHT_SIDE
from reward_models.steps import STEP_JOINER

FORMAT_FILE = "reward_model.json"

PROMPT_TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:"
)
"""What a process reward model reads before the solution, so that it sees the text its policy was trained on.
*Source:* the official WizardLM repository, WizardMath README (training prompt)."""

NeutralAs = Literal["wrong", "right", "ignore"]
AfterFirstError = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionFormat:
    """Input of an instruction reward model: the instruction alone, then EOS; the score is read at the last token."""

    kind: ClassVar[str] = "irm"
    max_length: int  # tokens, EOS included; a longer instruction keeps its beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFormat:
    """Input of a process reward model: prompt, joiner, solution; a score is read at the last token of each step."""

    kind: ClassVar[str] = "prm"
    max_length: int  # tokens of prompt and solution; steps that end beyond are not read
    prompt_template: str = PROMPT_TEMPLATE  # with one {instruction}
    joiner: str = STEP_JOINER  # between prompt and solution, and between the steps of training texts
    aggregation: Aggregation = "min"  # what makes one score of a solution, for those who do not choose
    threshold: float = ON_THE_RIGHT_SIDE  # a step scored below is called wrong
    neutral_as: NeutralAs = "wrong"  # how label 0 was read in training
    after_first_error: AfterFirstError = "keep"  # whether steps after the first wrong one were trained on

    def __post_init__(self) -> None:
        if "{instruction}" not in self.prompt_template:
            raise ValueError(f"the prompt template has no {{instruction}} field: {self.prompt_template!r}")

    def render(self, instruction: str) -> str:
        """What stands before the solution. Braces in the instruction are left alone."""
        return self.prompt_template.replace("{instruction}", instruction) + self.joiner


Format = InstructionFormat | ProcessFormat


def write_format(format: Format, folder: str | Path) -> None:
    """Put the format beside the weights."""
    write_json({"kind": format.kind, "version": 1, **dataclasses.asdict(format)}, Path(folder) / FORMAT_FILE)


def write_json(value: Any, path: str | Path) -> None:
    """Write JSON; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_kind(path: str | Path) -> str:
    """ "irm" or "prm": what the checkpoint (a folder or a hub id) is. Raises ValueError for anything else."""
    return _read_json(path)["kind"]


def read_format(path: str | Path, wanted: type[InstructionFormat] | type[ProcessFormat]) -> Any:
    """The format beside a checkpoint's weights. Raises ValueError when there is none, or one of another kind."""
    known = {field.name for field in dataclasses.fields(wanted)}
    stored = _read_json(path)
    if stored["kind"] != wanted.kind:
        raise ValueError(f"{path} is a reward model of kind {stored['kind']!r}; expected kind {wanted.kind!r}")
    values = {name: value for name, value in stored.items() if name not in ("kind", "version")}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{path}/{FORMAT_FILE} holds unknown keys {unknown}; known are {sorted(known)}")
    return wanted(**values)


def _read_json(path: str | Path) -> dict[str, Any]:
    file = _find(path)
    if file is None:
        raise ValueError(
            f"{path} is not a reward model: it has no {FORMAT_FILE} beside the weights. Train one with "
            f"`python -m reward_models irm` or `prm`, and give the folder it wrote (or its hub id)"
        )
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(stored, dict) or stored.get("kind") not in ("irm", "prm"):
        raise ValueError(f'{file} does not say `"kind": "irm"` or `"prm"`')
    return stored


def _find(path: str | Path) -> Path | None:
    if Path(path).is_dir():
        file = Path(path) / FORMAT_FILE
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(path), FORMAT_FILE)
    except (OSError, ValueError):  # no such hub id, no such file in it, or no network
        return None
    return Path(found) if found else None
