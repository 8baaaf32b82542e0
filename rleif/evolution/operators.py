"""Evolution operators as data: one prompt file each, with name, direction, version and source in its front matter.

The built-in prompts share a four-part frame (identify elements, plan, rewrite, review); an operator's own text fills
the frame's `method` block. *Source:* WizardMath v3 (arXiv 2308.09583v3), appendix A.1. *Differs:* own wording
throughout, and the problem is fenced off as data; no downward prompt is known, ours follows section 3.1's definition.
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rleif.records import Direction
from rleif.teachers.base import Operator
from rleif.teachers.prompts import OPERATOR_PROMPTS, read_prompt_file
from rleif.teachers.prompts import render as render


def load_operator(path: str | Path) -> Operator:
    """Read one operator from a prompt file: YAML front matter between `---` lines, then a Jinja2 body.

    The field `reply_after` may name the heading behind which the evolved instruction stands in a reply; empty takes the
    whole reply. Raises ValueError naming the file for missing front matter, missing or unknown fields, or an unknown
    direction.
    """
    header, template = read_prompt_file(path, ("name", "direction", "version", "source"), ("reply_after",))
    if header["direction"] not in typing.get_args(Direction):
        allowed = ", ".join(typing.get_args(Direction))
        raise ValueError(f"{path}: direction {header['direction']!r} is not one of {allowed}")
    fields: dict[str, Any] = dict(header)
    return Operator(template=template, **fields)


def _load_set(*names: str) -> Mapping[str, Operator]:
    return MappingProxyType({name: load_operator(OPERATOR_PROMPTS / f"{name}.j2") for name in names})


MATH_UP = _load_set("add_constraints", "concretize", "increase_reasoning")
"""*Source:* WizardMath v1 section 2.2 and v3 section 3.1: add constraints, concretize, increase reasoning."""

MATH_DOWN = _load_set("lower_difficulty", "new_topic")
"""*Source:* WizardMath v1 section 2.2 and v3 section 3.1: lower the difficulty, an easier problem on a new topic."""
