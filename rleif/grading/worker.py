"""The process in which math-verify runs: `python -m rleif.grading.worker`, one JSON object a line in and out.

A separate process because sympy can neither be interrupted (one big power holds the GIL) nor limited in memory from
inside. The kernel ends this process at its CPU limit; the parent does at its wall limit, and starts another.
"""

import json
import math
import os
import signal
import sys
from typing import Any

MAX_MEMORY_BYTES = 1 << 30
_BANNED = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.", "ctypes.", "shutil.")


def compare(gold: str, answer: str) -> dict[str, Any]:
    """Whether math-verify finds two LaTeX expressions equal.

    Only the LaTeX reader is used (a grammar): the reader for plain expressions goes through sympy's `parse_expr`,
    which evaluates Python. Both sides are wrapped in dollars, so nothing is searched for in running text.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    sides = []
    for text in (gold, answer):
        found = parse(
            f"${text}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # type: ignore[arg-type]  # None is how its documentation switches the alarm off
            raise_on_error=True,
        )
        if not found:
            return {"outcome": "unparsable", "detail": text}
        sides.append(found)
    equal = verify(*sides, timeout_seconds=None, raise_on_error=True)
    return {"outcome": "equal" if equal else "different", "detail": ""}


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, the second lock: nothing here evaluates text, starts programs, connects or writes files."""
    if event.startswith(_BANNED):
        raise PermissionError(f"{event} is not allowed in the grading worker")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise PermissionError("the grading worker writes no file")


def _limit_cpu(seconds: float) -> None:
    """Let the kernel end this process after so much more CPU time; nothing in Python can hold that back."""
    import resource

    used = sum(os.times()[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, hard))  # whole seconds: a backstop
    signal.setitimer(signal.ITIMER_PROF, seconds)  # no handler: the default action of SIGPROF is to end the process


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return compare(request["gold"], request["answer"])
    except Exception as error:
        return {"outcome": "error", "detail": f"{type(error).__name__}: {error}"[:300]}


def main() -> int:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not end up among the replies
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        compare(r"\frac{1}{2}", r"\frac{\sqrt{4}}{4}")  # loads what the first real request would wait for
        sys.addaudithook(_forbid)
        ready: dict[str, Any] = {"outcome": "ready", "detail": ""}
    except Exception as error:
        ready = {"outcome": "error", "detail": f"{type(error).__name__}: {error}"}
    print(json.dumps(ready), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_cpu(request["timeout_s"])
        reply = _answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)
        if reply["detail"].startswith("MemoryError"):
            return 1  # half-built caches may be left behind; the parent starts a fresh one
    return 0


if __name__ == "__main__":
    sys.exit(main())
