"""Evolution operators as data: one prompt file each, with name, direction, version and source in its front matter.

The built-in prompts share a four-part frame (identify elements, plan, rewrite, review); an operator's own text fills
the frame's `method` block. *Source:* WizardMath v3 (arXiv 2308.09583v3), appendix A.1. *Differs:* own wording
throughout, and the problem is fenced off as data; no downward prompt is known, ours follows section 3.1's definition.
"""

import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import yaml

from rleif.records import Direction
from rleif.teachers.base import Operator

PROMPTS = Path(__file__).parent / "prompts"
MAX_NEW_WORDS = 30  # WizardMath v3, appendix A.1: a rewritten problem is at most 30 words longer
MIN_CHANGES = 3  # WizardMath v3, appendix A.1: at least three of the identified elements change


def load_operator(path: str | Path) -> Operator:
    """Read one operator from a prompt file: YAML front matter between `---` lines, then a Jinja2 body.

    Raises ValueError naming the file for missing front matter, missing or unknown fields, or an unknown direction.
    """
    path = Path(path)
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise ValueError(f"{path}: expected front matter between two lines '---', then the prompt")
    header = yaml.safe_load(parts[1])
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the front matter must hold 'key: value' lines, found {parts[1]!r}")
    fields = {"name", "direction", "version", "source"}
    if set(header) != fields:
        missing, unknown = sorted(fields - set(header)), sorted(set(header) - fields)
        raise ValueError(f"{path}: front matter lacks {missing}, has unknown {unknown}; expected {sorted(fields)}")
    if header["direction"] not in typing.get_args(Direction):
        allowed = ", ".join(typing.get_args(Direction))
        raise ValueError(f"{path}: direction {header['direction']!r} is not one of {allowed}")
    return Operator(**{name: str(value) for name, value in header.items()}, template=parts[2])  # type: ignore[arg-type]


@cache
def _environment():
    # Imported here: operators are named in every schedule, jinja2 is needed only by teachers that work by prompt.
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        loader=FileSystemLoader(PROMPTS), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )


def render(operator: Operator, instruction: str, *, fence: str, max_new_words: int = MAX_NEW_WORDS) -> str:
    """The operator's prompt for one instruction.

    The instruction is a value, never part of the template, so braces in it stay as they are. `fence` marks where it
    begins and ends and must not occur in it (callers draw it at random per call).
    """
    if operator.template is None:
        raise ValueError(f"operator {operator.name!r} has no prompt template; load it from a prompt file")
    if not fence or fence in instruction:
        raise ValueError(f"the fence {fence!r} is empty or occurs in the instruction; draw another one")
    template = _environment().from_string(operator.template)
    return template.render(instruction=instruction, fence=fence, max_new_words=max_new_words, min_changes=MIN_CHANGES)


def _load_set(*names: str) -> Mapping[str, Operator]:
    return MappingProxyType({name: load_operator(PROMPTS / f"{name}.j2") for name in names})


MATH_UP = _load_set("add_constraints", "concretize", "increase_reasoning")
"""*Source:* WizardMath v1 section 2.2 and v3 section 3.1: add constraints, concretize, increase reasoning."""

MATH_DOWN = _load_set("lower_difficulty", "new_topic")
"""*Source:* WizardMath v1 section 2.2 and v3 section 3.1: lower the difficulty, an easier problem on a new topic."""
