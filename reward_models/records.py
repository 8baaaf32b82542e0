"""What a label is: ranked instructions, solutions judged step by step; and their JSONL.

Nothing here imports torch, so reading and checking data stays cheap.
"""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ON_THE_RIGHT_SIDE = 0.5
"""A step score or soft value at or above this counts as right."""


class DataError(ValueError):
    """A data file or a row of it cannot be used; the message names file, line and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedInstructions:
    """One list of instructions, best first; the members of a tier are tied.

    `C > A = E > B` is

    >>> RankedInstructions(tiers=(("C",), ("A", "E"), ("B",)))
    """

    tiers: tuple[tuple[str, ...], ...]
    aspects: Mapping[str, Any] | None = None  # such as definition: a JSON value per instruction, in the tiers' order

    def __post_init__(self) -> None:
        if not self.tiers or not all(self.tiers):
            raise DataError(f"a ranked list needs tiers and no tier may be empty; got {self.tiers!r}")
        for text in itertools.chain.from_iterable(self.tiers):
            _require_text(text, "an instruction of a ranked list")

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every untied pair (better, worse)."""
        for better, worse in itertools.combinations(self.tiers, 2):
            yield from itertools.product(better, worse)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledSolution:
    """A solution with one judgement per step: hard labels or soft values, never both.

    >>> LabeledSolution(instruction="What is 2 + 3, doubled?", steps=("2 + 3 = 6", "6 * 2 = 12"), labels=(-1, 0))
    """

    instruction: str
    steps: tuple[str, ...]
    labels: tuple[int, ...] | None = None  # one of -1 wrong, 0 neutral, +1 right per step
    values: tuple[float, ...] | None = None  # in [0, 1]: the share of rollouts from this step that end right
    outcome: bool | None = None  # whether the final answer is right, None when unknown

    def __post_init__(self) -> None:
        _require_text(self.instruction, "the instruction of a labeled solution")
        _require_steps(self.steps)
        if (self.labels is None) == (self.values is None):
            raise DataError("a labeled solution needs exactly one of `labels` (-1, 0, +1) and `values` (0 to 1)")
        judged, name = (self.labels, "labels") if self.labels is not None else (self.values, "values")
        assert judged is not None
        if len(judged) != len(self.steps):
            raise DataError(f"{len(self.steps)} steps but {len(judged)} {name}; every step needs exactly one")
        for value in judged:
            # A bool is an int to Python: `True` and `False` in a file would pass for +1 and neutral.
            if isinstance(value, bool) or not _is_allowed(value, name):
                allowed = "-1, 0 or 1" if name == "labels" else "a number from 0 to 1"
                raise DataError(f"{name} holds {value!r}; allowed is {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedError:
    """A solution with the place of its first wrong step, as in ProcessBench.

    >>> LocatedError(instruction="What is 2 + 3?", steps=("2 + 3 = 6", "The answer is: 6"), first_error=0)
    """

    instruction: str
    steps: tuple[str, ...]
    first_error: int  # index from 0 of the first wrong step, -1 when all are right

    def __post_init__(self) -> None:
        _require_text(self.instruction, "the problem of a located error")
        _require_steps(self.steps)
        if isinstance(self.first_error, bool) or not isinstance(self.first_error, int):
            raise DataError(f"the place of the first error must be an integer, got {self.first_error!r}")
        if not -1 <= self.first_error < len(self.steps):
            raise DataError(
                f"the first error is at {self.first_error} but the solution has {len(self.steps)} steps; allowed is "
                f"-1 (no error) to {len(self.steps) - 1}: places count from 0"
            )


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> int:
    """Write records (dataclasses) or mappings, one JSON object a line; the file appears whole or not at all.

    Returns the number of rows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                value = dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row  # type: ignore[arg-type]
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def read_rows(path: str | Path, required: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSONL file, each checked for the required columns.

    Raises DataError naming file and line for a cut or malformed line, a blank line before further rows, a line that is
    not an object, or a missing column (with the columns found), and for a file without rows.
    """
    for _, row in _numbered_rows(path, required):
        yield row


def read_ranked(path: str | Path) -> list[RankedInstructions]:
    """Ranked lists from JSONL rows `{"tiers": [["best"], ["tied", "tied"], ...], "aspects": {...} | null}`."""
    return [_build(ranked_from_row, row, path, line) for line, row in _numbered_rows(path, ("tiers",))]


def ranked_from_row(row: Mapping[str, Any]) -> RankedInstructions:
    """A ranked list from one JSON object. Raises DataError for a row of another shape."""
    tiers = row["tiers"]
    if not _is_list(tiers) or not all(_is_list(tier) for tier in tiers):
        raise DataError(f"`tiers` must be a list of lists of instructions, got {str(tiers)[:80]!r}")
    aspects = row.get("aspects")
    if aspects is not None and not isinstance(aspects, Mapping):
        raise DataError(f"`aspects` must be an object with a list for each name, got {str(aspects)[:80]!r}")
    return RankedInstructions(tiers=tuple(tuple(tier) for tier in tiers), aspects=aspects)


def read_labeled(path: str | Path) -> list[LabeledSolution]:
    """Judged solutions from JSONL rows `{"instruction", "steps": [...], "labels": [...] or "values": [...]}`."""
    rows = _numbered_rows(path, ("instruction", "steps"))
    return [_build(labeled_from_row, row, path, line) for line, row in rows]


def labeled_from_row(row: Mapping[str, Any]) -> LabeledSolution:
    """A judged solution from one JSON object. Raises DataError for a row of another shape."""
    labels, values = row.get("labels"), row.get("values")
    if labels is None and values is None:
        raise DataError(f"missing column: one of 'labels' and 'values'; found {sorted(row)}")
    for name in ("steps", "labels", "values"):
        if row.get(name) is not None and not _is_list(row[name]):
            raise DataError(f"`{name}` must be a list, got {row[name]!r}")
    return LabeledSolution(
        instruction=row["instruction"],
        steps=tuple(row["steps"]),
        labels=None if labels is None else tuple(labels),
        values=None if values is None else tuple(values),
        outcome=row.get("outcome"),
    )


def read_located(path: str | Path) -> list[LocatedError]:
    """Solutions in ProcessBench's own format, as JSONL or as one JSON array: `{"problem", "steps", "label"}`."""
    path, columns = Path(path), ("problem", "steps", "label")
    if path.is_file() and _starts_with_bracket(path):
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
        if not rows:
            raise DataError(f"{path}: the file has no rows")
        numbered = ((number, _checked(row, columns, f"{path}, row {number}")) for number, row in enumerate(rows, 1))
    else:
        numbered = _numbered_rows(path, columns)
    return [_build(located_from_row, row, path, number) for number, row in numbered]


def located_from_row(row: Mapping[str, Any]) -> LocatedError:
    """One row of ProcessBench. *Source:* arXiv 2412.06559: `label` counts from 0, -1 means no error."""
    if not _is_list(row["steps"]):
        raise DataError(f"`steps` must be a list, got {row['steps']!r}")
    return LocatedError(instruction=row["problem"], steps=tuple(row["steps"]), first_error=row["label"])


def read_judged(path: str | Path) -> list[LabeledSolution] | list[LocatedError]:
    """Judged solutions in either form: the columns of the first row decide."""
    path = Path(path)
    if path.is_file() and _starts_with_bracket(path):
        return read_located(path)
    first = next(read_rows(path, ("steps",)))
    return read_located(path) if "problem" in first and "label" in first else read_labeled(path)


def _numbered_rows(path: str | Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with columns {list(required) or 'of any name'}")
    last, blank = 0, None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                blank = blank or number
                continue
            if blank is not None:
                raise DataError(f"{path}, line {blank}: a blank line before further rows. Is a row missing there?")
            last = number
            yield number, _checked(_parsed(line, path, number), required, f"{path}, line {number}")
    if not last:
        raise DataError(f"{path}: the file has no rows")


def _parsed(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at column {error.colno}"
    except UnicodeDecodeError as error:  # a file is cut between bytes, which may be inside a character
        fault = f"no UTF-8 at byte {error.start + 1}"
    start = line[:60].decode("utf-8", errors="replace")
    raise DataError(
        f"{path}, line {number}: not valid JSON ({fault}); the line starts {start!r}. Was the file cut off while it "
        "was written?"
    )


def _checked(row: Any, required: Sequence[str], place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(row).__name__}")
    missing = [name for name in required if name not in row]
    if missing:
        raise DataError(f"{place}: missing column {missing}; found {sorted(row)}, expected {list(required)}")
    return row


def _build(from_row: Any, row: Mapping[str, Any], path: str | Path, line: int) -> Any:
    try:
        return from_row(row)
    except DataError as error:
        raise DataError(f"{path}, line {line}: {error}") from None


def _starts_with_bracket(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return file.read(64).lstrip().startswith("[")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_allowed(value: Any, name: str) -> bool:
    if name == "labels":
        return isinstance(value, int) and value in (-1, 0, 1)
    return isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1


def _require_text(text: Any, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{what} must be text, got {text!r}")


def _require_steps(steps: tuple[str, ...]) -> None:
    if not steps:
        raise DataError("a solution needs at least one step")
    for index, step in enumerate(steps):
        _require_text(step, f"step {index}")
