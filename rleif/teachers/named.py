"""Teachers by the name that a configuration gives them."""

from collections.abc import Sequence

from rleif.teachers.base import Teacher

TEACHERS = ("symbolic", "none")


def teacher_by_name(
    name: str,
    *,
    seed: int = 0,
    noise: float = 0.0,
    numbers: str = "full",
    relations: Sequence[str] | None = None,
    max_steps: int | None = None,
    step_names: bool = True,
) -> Teacher | None:
    """The teacher a configuration names; None for "none".

    noise: rate of ill-posed children that the symbolic teacher lets through, in [0, 1].
    numbers: how large numbers the symbolic teacher uses, "full", "small" or "tiny".
    relations: what the quantities of its problems are defined by; None: all that there are.
    max_steps: the most operations of a problem that it evolves; None: no bound.
    step_names: whether its solutions say whose amount a step computes.
    Raises ValueError for another name.
    """
    if name == "none":
        return None
    if name == "symbolic":
        from rleif.teachers.symbolic import SymbolicTeacher, sizes_of

        sizes = sizes_of(numbers, relations)
        return SymbolicTeacher(seed, noise=noise, sizes=sizes, max_steps=max_steps, step_names=step_names)
    raise ValueError(f"unknown teacher {name!r}; known: {', '.join(TEACHERS)}")
