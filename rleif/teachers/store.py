"""Everything that was paid for, in one sqlite file: each call with its raw reply, each item with its lineage and fate.

A reply is written before anyone uses it, so a crash loses the calls in flight and no other. Parsing starts again from
the raw replies, so a changed parser costs nothing.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rleif.records import DataError, Problem, Rejection, problem_from_row
from rleif.teachers.chat import ChatClient, Question, Reply, canonical

VERSION = 1  # of the tables; kept in the file as user_version
TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY,
    client TEXT NOT NULL, model TEXT NOT NULL,
    messages TEXT NOT NULL, parameters TEXT NOT NULL, attempt INTEGER NOT NULL,
    reply TEXT NOT NULL, refusal TEXT, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    latency_s REAL NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS faults (kind TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL,
    parent TEXT, root TEXT NOT NULL, round INTEGER NOT NULL,
    operator TEXT, direction TEXT, teacher TEXT,
    instruction TEXT NOT NULL, answer TEXT, meta TEXT NOT NULL,
    status TEXT NOT NULL, rule TEXT, evidence TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_parent ON items (parent);
"""
ITEM_COLUMNS = (
    *("id", "position", "parent", "root", "round", "operator", "direction", "teacher"),
    *("instruction", "answer", "meta", "status", "rule", "evidence"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A problem and what became of it.

    >>> Item(problem=child, status="eliminated", rule="no_information_gain", evidence="same as its parent")
    """

    problem: Problem
    status: str  # "kept", or that of a Rejection
    rule: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a store's calls have used.

    >>> Spent(calls=3, prompt_tokens=1200, completion_tokens=400)
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def key_of(client: ChatClient, question: Question) -> str:
    """Depends on all that shapes the reply: client, model, every message, every parameter, attempt."""
    parts = [client.name, client.model, list(question.messages), question.parameters, question.attempt]
    return hashlib.blake2b(canonical(parts).encode(), digest_size=16).hexdigest()


class Store:
    """The sqlite file of a run. A second process may read it while one writes.

    >>> with Store("runs/math/store.sqlite") as store:
    ...     store.reply("9c1e...")
    """

    def __init__(self, path: str | Path) -> None:
        """Raises DataError for a file of another kind or of a newer version."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(self.path, isolation_level=None, timeout=30.0)
        try:
            found = self._file.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise DataError(
                    f"{self.path} was written by a newer version of this library (store version {found}, this one "
                    f"reads up to {VERSION}): update rleif, or start a new store"
                )
            # WAL: readers do not wait. NORMAL: a commit survives the death of the process; a power cut may take the
            # last ones, which are then asked again.
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.executescript(TABLES)
            self._file.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.DatabaseError as error:
            self._file.close()
            raise DataError(f"{self.path} is not a store: {error}") from error
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    # Calls.

    def reply(self, key: str) -> Reply | None:
        """The stored reply of a call, None when it was never made."""
        columns = "reply, finish_reason, prompt_tokens, completion_tokens, latency_s, refusal"
        row = self._file.execute(f"SELECT {columns} FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text, finish_reason, prompt_tokens, completion_tokens, latency_s, refusal = row
        return Reply(
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_s=latency_s,
            refusal=refusal,
        )

    def add_reply(self, key: str, client: ChatClient, question: Question, reply: Reply) -> None:
        """On disk when this returns. Text that utf-8 cannot hold is kept with its lone surrogates replaced."""
        values = (
            *(key, client.name, client.model, canonical(list(question.messages)), canonical(question.parameters)),
            *(question.attempt, _storable(reply.text), _storable(reply.refusal), reply.finish_reason),
            *(reply.prompt_tokens, reply.completion_tokens, reply.latency_s, time.time()),
        )
        self._file.execute(f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * len(values))})", values)

    def spent(self) -> Spent:
        """Summed over all calls in the file, those of earlier runs included."""
        row = self._file.execute(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM calls"
        ).fetchone()
        return Spent(calls=row[0], prompt_tokens=row[1], completion_tokens=row[2])

    def add_fault(self, kind: str) -> None:
        """Count a try that brought nothing: a rate limit, a server error, a time-out, a reply that is no reply."""
        self._file.execute(
            "INSERT INTO faults VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET count = count + 1", (kind,)
        )

    def faults(self) -> dict[str, int]:
        return dict(self._file.execute("SELECT kind, count FROM faults ORDER BY kind"))

    # Items.

    def write_items(self, problems: Iterable[Problem], rejections: Iterable[Rejection]) -> None:
        """Replace all items by these: what a finished or stopped run knows."""
        rows = [Item(problem=problem, status="kept") for problem in problems]
        rows += [
            Item(problem=item.problem, status=item.status, rule=item.rule, evidence=item.evidence)
            for item in rejections
        ]
        self._file.execute("BEGIN")
        try:
            self._file.execute("DELETE FROM items")
            self._file.executemany(
                f"INSERT OR REPLACE INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})",
                (_item_row(item, place) for place, item in enumerate(rows)),
            )
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def items(self) -> Iterator[Item]:
        """In the order in which they were written."""
        yield from map(_item, self._file.execute(f"SELECT {', '.join(ITEM_COLUMNS)} FROM items ORDER BY position"))

    def item(self, id: str) -> Item | None:
        rows = self._file.execute(f"SELECT {', '.join(ITEM_COLUMNS)} FROM items WHERE id = ?", (id,)).fetchall()
        return _item(rows[0]) if rows else None

    def children(self, id: str) -> list[Item]:
        query = f"SELECT {', '.join(ITEM_COLUMNS)} FROM items WHERE parent = ? ORDER BY position"
        return [_item(row) for row in self._file.execute(query, (id,))]


def _storable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


def _item_row(item: Item, position: int) -> tuple[Any, ...]:
    p = item.problem
    return (
        *(p.id, position, p.parent, p.root, p.round, p.operator, p.direction, p.teacher),
        *(_storable(p.instruction), p.answer, canonical(dict(p.meta))),
        *(item.status, item.rule, _storable(item.evidence)),
    )


def _item(row: tuple[Any, ...]) -> Item:
    values: Mapping[str, Any] = dict(zip(ITEM_COLUMNS, row, strict=True))
    problem = problem_from_row({**values, "meta": json.loads(values["meta"])})
    return Item(problem=problem, status=values["status"], rule=values["rule"], evidence=values["evidence"])
