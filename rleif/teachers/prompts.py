"""Prompt files: YAML front matter, then a Jinja2 body into which data goes as values, never as template text.

Operators have one file each under `rleif/evolution/prompts`, the teacher's other verbs under `rleif/teachers/prompts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rleif.records import stable_id
from rleif.teachers.base import Operator

VERB_PROMPTS = Path(__file__).parent / "prompts"
OPERATOR_PROMPTS = Path(__file__).parent.parent / "evolution" / "prompts"
MAX_NEW_WORDS = 30  # WizardMath v3, appendix A.1: a rewritten problem is at most 30 words longer
MIN_CHANGES = 3  # WizardMath v3, appendix A.1: at least three of the identified elements change


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a prompt file holds.

    >>> Prompt(name="same", version="1", source="...", template="Decide whether ...")
    """

    name: str
    version: str
    source: str
    template: str

    @property
    def sha(self) -> str:
        """Changes with the text."""
        return stable_id(self.template)


def read_prompt_file(
    path: str | Path, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, str], str]:
    """Front matter and body. Raises ValueError naming the file for missing front matter, missing or unknown fields."""
    path = Path(path)
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise ValueError(f"{path}: expected front matter between two lines '---', then the prompt")
    header = yaml.safe_load(parts[1])
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the front matter must hold 'key: value' lines, found {parts[1]!r}")
    missing = sorted(set(required) - set(header))
    unknown = sorted(set(header) - {*required, *optional})
    if missing or unknown:
        raise ValueError(f"{path}: front matter lacks {missing}, has unknown {unknown}; expected {sorted(required)}")
    return {name: str(value) for name, value in header.items()}, parts[2]


def load_prompt(path: str | Path) -> Prompt:
    """A prompt of one of the verbs but evolve."""
    header, template = read_prompt_file(path, ("name", "version", "source"))
    return Prompt(template=template, **header)


@cache
def verb_prompts() -> Mapping[str, Prompt]:
    """The built-in prompts by name: answer, rank, label, same."""
    return {path.stem: load_prompt(path) for path in sorted(VERB_PROMPTS.glob("*.j2"))}


def render(operator: Operator, instruction: str, *, fence: str, max_new_words: int = MAX_NEW_WORDS) -> str:
    """The operator's prompt for one instruction.

    The instruction is a value, never part of the template, so braces in it stay as they are. `fence` marks where it
    begins and ends and must not occur in it (`fence_for` draws one).
    """
    if operator.template is None:
        raise ValueError(f"operator {operator.name!r} has no prompt template; load it from a prompt file")
    if not fence or fence in instruction:
        raise ValueError(f"the fence {fence!r} is empty or occurs in the instruction; draw another one")
    values = {"max_new_words": max_new_words, "min_changes": MIN_CHANGES}
    return render_template(operator.template, instruction=instruction, fence=fence, **values)


def render_template(template: str, **values: Any) -> str:
    """The template with the values in it. Raises jinja2's UndefinedError for a value that is missing."""
    return _environment().from_string(template).render(**values)


def fence_for(seed: int, *texts: str) -> str:
    """A line that no text holds and that no text's author can foresee: it depends on all of them. The same texts get
    the same fence, so that a question that was asked before is found again."""
    number = 0
    while True:
        fence = f"-----{stable_id(seed, number, *texts)}-----"
        if not any(fence in text for text in texts):
            return fence
        number += 1


@cache
def _environment() -> Any:
    # Imported here: operators are named in every schedule, jinja2 is needed only by teachers that work by prompt.
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        loader=FileSystemLoader([OPERATOR_PROMPTS, VERB_PROMPTS]),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
