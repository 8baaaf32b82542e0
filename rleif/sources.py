"""Seed problems from files and from the Hugging Face hub: own JSONL and GSM8K's format."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rleif.records import DataError, Problem, Solution, read_problems, read_rows, stable_id

ANSWER_MARK = "The answer is: "
GSM8K_COLUMNS = ("question", "answer")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_MARK = re.compile(r"<<([^<>]*)>>")


def resolve_data(path: str | Path) -> Path:
    """The first that exists: the path itself, then the same below `$RLEIF_DATA`, `./data` and `../shared/data`.

    >>> resolve_data("pyproject.toml")  # doctest: +SKIP
    PosixPath('pyproject.toml')

    Raises DataError that names every place looked at.
    """
    path = Path(path).expanduser()
    folders = [] if path.is_absolute() else [os.environ.get("RLEIF_DATA"), "data", "../shared/data"]
    places = [path, *(Path(folder) / path for folder in folders if folder)]
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(map(str, places))
    hint = "" if os.environ.get("RLEIF_DATA") else "; set RLEIF_DATA to the folder that holds your data sets"
    raise DataError(f"no such file: {path}; looked at {looked}{hint}")


def read_seeds(path: str | Path) -> list[tuple[Problem, Solution | None]]:
    """Seed problems of a JSONL file, own (`instruction`, optional `answer`) or GSM8K (`question`, `answer`) rows.

    A hub id stands for GSM8K's rows on the hub: "openai/gsm8k" or, with a split, "openai/gsm8k:test". The first row
    decides the format. Raises DataError naming file, line, columns found and expected.
    """
    if (found := hub_split(path)) is not None:
        return [*read_gsm8k(found[0], split=found[1])]
    path = resolve_data(path)
    first = next(read_rows(path))
    if "instruction" in first:
        return [(problem, None) for problem in read_problems(path)]
    if "question" in first:
        return [*gsm8k_rows(read_rows(path, required=GSM8K_COLUMNS), source=str(path))]
    raise DataError(
        f"{path}, line 1: found columns {sorted(first)}; expected 'instruction' (and 'answer') or GSM8K's "
        "'question' and 'answer'"
    )


def hub_split(path: str | Path) -> tuple[str, str] | None:
    """Hub id and split of "owner/name" or "owner/name:split"; None for what is, or can only be, a path.

    >>> hub_split("openai/gsm8k:test")
    ('openai/gsm8k', 'test')
    """
    repository, _, split = str(path).partition(":")
    if not _HUB_ID.fullmatch(repository) or repository.endswith((".jsonl", ".json", ".gz")):
        return None
    try:
        resolve_data(path)
    except DataError:
        return repository, split or "train"
    return None


def read_texts(path: str | Path) -> list[str]:
    """The problem texts of a test file (column instruction, question, problem or prompt), for decontamination.

    A hub id works as in `read_seeds`.
    """
    if (found := hub_split(path)) is not None:
        return [problem.instruction for problem, _ in read_gsm8k(found[0], split=found[1])]
    path = resolve_data(path)
    names = ("instruction", "question", "problem", "prompt")
    texts = []
    for number, row in enumerate(read_rows(path), start=1):
        text = next((row[name] for name in names if isinstance(row.get(name), str)), None)
        if text is None:
            raise DataError(f"{path}, row {number}: found columns {sorted(row)}; expected one of {list(names)}")
        texts.append(text)
    return texts


def read_gsm8k(
    path_or_hub_id: str | Path, split: str = "train", name: str | None = "main"
) -> list[tuple[Problem, Solution]]:
    """GSM8K from a JSONL file, a folder with `{split}.jsonl`, or a hub id such as "openai/gsm8k".

    name: the hub configuration. Gives a problem and its gold solution for every row; see `gsm8k_row`.
    *Source:* Cobbe et al. 2021 (arXiv 2110.14168).
    Raises DataError for a row that cannot be read, and when a hub id cannot be reached.
    """
    try:
        path = resolve_data(path_or_hub_id)
    except DataError:
        if not _HUB_ID.fullmatch(str(path_or_hub_id)) or str(path_or_hub_id).endswith(".jsonl"):
            raise
        return [*gsm8k_rows(_hub_rows(str(path_or_hub_id), name, split), source=f"{path_or_hub_id} {split}")]
    if path.is_dir() and (path / f"{split}.jsonl").is_file():
        path = path / f"{split}.jsonl"
    if path.is_dir():  # a copy of a hub repository
        return [*gsm8k_rows(_hub_rows(str(path), name, split), source=f"{path} {split}")]
    return [*gsm8k_rows(read_rows(path, required=GSM8K_COLUMNS), source=str(path))]


def _hub_rows(repository: str, name: str | None, split: str) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        dataset: Any = load_dataset(repository, name, split=split)
    except Exception as error:  # offline, unknown id or split: many types, one remedy
        raise DataError(
            f"cannot load {repository!r} (configuration {name!r}, split {split!r}): {type(error).__name__}: {error}. "
            "Without a network, download the data set and give the path of its JSONL file instead."
        ) from error
    missing = [column for column in GSM8K_COLUMNS if column not in dataset.column_names]
    if missing:
        raise DataError(f"{repository}: missing column {missing}; found {sorted(dataset.column_names)}")
    return (dict(row) for row in dataset)


def gsm8k_rows(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[tuple[Problem, Solution]]:
    for number, row in enumerate(rows, start=1):
        try:
            yield gsm8k_row(row)
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from None


def gsm8k_row(row: Mapping[str, Any]) -> tuple[Problem, Solution]:
    """One GSM8K row as problem and gold solution.

    `<<48/2=24>>` marks leave the visible text and stay in the problem's `meta["equations"]`, each with its step
    (0-based), its two sides and the character at which it stood in the visible step, right before the result.
    `#### N` becomes the answer line; separators leave the number ("1,080" -> "1080"). `meta["solution"]` holds the
    gold steps.

    >>> problem, solution = gsm8k_row({"question": "What is half of 48?", "answer": "48/2 = <<48/2=24>>24\\n#### 24"})
    >>> solution.steps, problem.answer
    (('Step 1: 48/2 = 24', 'The answer is: 24'), '24')
    >>> problem.meta["equations"]
    [{'step': 0, 'left': '48/2', 'right': '24', 'at': 15}]
    """
    question, answer = row["question"], row["answer"]
    if not isinstance(question, str) or not question.strip() or not isinstance(answer, str):
        raise DataError(f"question and answer must be non-empty text, found {question!r} and {answer!r}")
    body, mark, final = answer.rpartition("####")
    final = final.strip().replace(",", "")
    if not mark or not final:
        raise DataError(f"the answer has no '#### N' at its end; it ends {answer[-60:]!r}")
    lines = [line.strip() for line in body.split("\n") if line.strip()]
    steps, equations = [], []
    for index, line in enumerate(lines):
        step, found = _strip_marks(f"Step {index + 1}: {line}")
        steps.append(step)
        equations += [{"step": index} | equation for equation in found]
    steps.append(ANSWER_MARK + final)
    name = stable_id("gsm8k", question)
    meta = {"source": "gsm8k", "equations": equations, "solution": steps}
    problem = Problem(id=name, root=name, instruction=question.strip(), answer=final, meta=meta)
    return problem, gold_solution(problem)


def gold_solution(problem: Problem) -> Solution:
    """The reference solution that came with the data. Raises DataError where there is none."""
    steps: Sequence[str] | None = problem.meta.get("solution")
    if not steps:
        raise DataError(f"problem {problem.id} has no reference solution in meta['solution']")
    return Solution(
        problem_id=problem.id,
        instruction=problem.instruction,
        steps=tuple(steps),
        answer=problem.answer,
        by=str(problem.meta.get("source", "reference")),
    )


def _strip_marks(line: str) -> tuple[str, list[dict[str, Any]]]:
    """The line without its marks, and each mark's two sides with its place in the visible line."""
    pieces, equations, length, end = [], [], 0, 0
    for mark in _MARK.finditer(line):
        pieces.append(line[end : mark.start()])
        length += mark.start() - end
        end = mark.end()
        left, _, right = mark.group(1).rpartition("=")
        equations.append({"left": left.strip(), "right": right.strip(), "at": length})
    return "".join([*pieces, line[end:]]), equations
