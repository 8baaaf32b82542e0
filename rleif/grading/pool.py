"""A pool of killable worker processes for the answers that need a mathematics parser.

Plain child programs that speak JSON lines: unlike `multiprocessing` they work from a script without a main guard, from
any thread, under asyncio and after a fork, and they can be killed while they hold the GIL of their own.
"""

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["equal", "different", "unparsable", "timeout", "error", "died", "ready"]

START_TIMEOUT_S = 120.0  # importing sympy on a busy machine
WALL_FACTOR = 10.0  # wall limit over CPU limit, so that a loaded machine does not turn answers into time-outs
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG", "LC_ALL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of one comparison.

    >>> Reply(outcome="timeout", detail="more than 2 s of CPU time")
    """

    outcome: Outcome
    detail: str = ""


class _Worker:
    """One child process. After a time-out or a death it is spent: `alive` is False and it has been reaped."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}  # no secrets
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "rleif.grading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then decides
        )
        self._rest = b""
        try:
            ready = self._read(START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise
        if ready.outcome != "ready":
            self.kill()
            raise RuntimeError(
                f"the grading worker could not start ({ready.detail}); answers beyond plain numbers need math-verify: "
                f"pip install math-verify"
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def compare(self, gold: str, answer: str, timeout_s: float) -> Reply:
        request = json.dumps({"gold": gold, "answer": answer, "timeout_s": timeout_s}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode())
        except BrokenPipeError:
            return self._death()
        return self._read(timeout_s * WALL_FACTOR)

    def _read(self, timeout_s: float) -> Reply:
        """The next reply; "timeout" or "died" mean that the process is gone."""
        deadline = time.monotonic() + timeout_s
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    return Reply(outcome="timeout", detail=f"no reply within {timeout_s:g} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    return self._death()
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return Reply(**json.loads(line))

    def _death(self) -> Reply:
        code = self._process.wait()
        self.kill()
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            return Reply(outcome="timeout", detail="it took more CPU time than allowed")
        return Reply(outcome="died", detail=f"the worker ended with code {code}")

    def kill(self) -> None:
        """End and reap the process; safe to call twice."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this side's pipes. In a forked child: the process belongs to the parent and goes on serving it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._process.returncode is None:
            self._process.returncode = 0  # nothing for this process to reap, and nothing to warn about


class WorkerPool:
    """At most `size` workers, started when first needed; each serves one caller at a time."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._free_slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def compare(self, gold: str, answer: str, timeout_s: float) -> Reply:
        """Whether two expressions are equal, decided in a worker within `timeout_s` seconds of its CPU time.

        A worker that dies for another reason (the out-of-memory killer may take an idle one) is given one successor.
        """
        with self._free_slots:
            reply = self._ask_one(gold, answer, timeout_s)
            if reply.outcome == "died":
                reply = self._ask_one(gold, answer, timeout_s)
        return Reply(outcome="error", detail=reply.detail) if reply.outcome == "died" else reply

    def _ask_one(self, gold: str, answer: str, timeout_s: float) -> Reply:
        worker = self._take()
        try:
            return worker.compare(gold, answer, timeout_s)
        except BaseException:  # interrupted: a reply may still come, which the next caller must not get
            worker.kill()
            raise
        finally:
            self._give_back(worker)

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = _Worker()
                with self._lock:
                    self._all.add(worker)
            if worker.alive:
                return worker
            worker.kill()
            self._give_back(worker)

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker.alive:
                self._idle.append(worker)
            else:
                self._all.discard(worker)

    def close(self) -> None:
        """End all workers. The pool can be used again afterwards."""
        with self._lock:
            workers, self._idle = list(self._all), []
            self._all.clear()
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        for worker in self._all:
            worker.forget()


_shared: WorkerPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """The pool of this process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = WorkerPool()
        return _shared


def close() -> None:
    """End the workers of this process; they start again when needed."""
    if _shared is not None:
        _shared.close()


def _after_fork_in_child() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()  # another thread of the parent may have held it
    if _shared is not None:
        _shared.forget()
        _shared = None


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
