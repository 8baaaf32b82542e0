"""Sampled completions, for people: a JSONL file in the output directory, and a table where a tracker takes one."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE_NAME = "completions.jsonl"
COLUMNS = ("step", "prompt", "completion", "irm", "prm", "reward", "accuracy")


class CompletionsTable:
    """Rows go to the file at once, and to Weights & Biases with the next log. Used by one process only."""

    def __init__(self, folder: str | Path, report_to: Sequence[str]) -> None:
        self.path = Path(folder) / FILE_NAME
        self._to_wandb = "wandb" in report_to
        self._pending: list[dict[str, Any]] = []

    def restart(self, step: int) -> None:
        """Forget rows of `step` and later: the run that wrote them was cut off, and they will be sampled again."""
        if not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) < step]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows with the keys of COLUMNS."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({name: row[name] for name in COLUMNS}, ensure_ascii=False) + "\n")
        if self._to_wandb:
            self._pending.extend(rows)

    def flush(self) -> None:
        """Send what is pending to the tracker's current run."""
        if not self._pending:
            return
        wandb = sys.modules.get("wandb")  # the callback that started the run has imported it
        if wandb is not None and wandb.run is not None:
            data = [[row[name] for name in COLUMNS] for row in self._pending]
            wandb.log({"completions": wandb.Table(columns=list(COLUMNS), data=data)})
        self._pending.clear()


def _step_of(line: str) -> float:
    """A line cut off by a crash counts as the future, so it is dropped."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
