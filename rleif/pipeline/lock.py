"""One run at a time in a run directory."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

LOCK_FILE = ".lock"


class RunLockedError(ValueError):
    """Another run works in this directory."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the directory. A lock whose process is gone (killed, power cut) is taken over.

    Raises RunLockedError, naming process and host, while another run holds it.
    """
    path = folder / LOCK_FILE
    folder.mkdir(parents=True, exist_ok=True)
    _acquire(path)
    try:
        yield
    finally:
        if _read(path) == _own():
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> None:
    # A lock appears with its content in one step (link), so no reader sees an empty one.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(_own()), encoding="utf-8")
    try:
        while True:
            try:
                os.link(part, path)
                return
            except FileExistsError:
                _remove_if_stale(path)
    finally:
        part.unlink(missing_ok=True)


def _remove_if_stale(path: Path) -> None:
    holder = _read(path)
    if holder is None:
        return  # released between our try and this look
    if _is_held(holder):
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        raise RunLockedError(
            f"{path.parent} is in use by another run ({who}). Wait for it, stop it, or choose another "
            f"run.output_dir. If that process is certainly gone, delete {path}"
        )
    # Renaming decides between two runs that both found the lock stale: one of them gets it.
    grave = path.with_name(f"{path.name}.stale.{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    grave.unlink()


def _is_held(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return True  # cannot be looked up from here
    try:
        # Process ids are reused: the same number with another start is another process.
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0
    except (psutil.NoSuchProcess, KeyError, TypeError):
        return False


def _own() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "started": psutil.Process(pid).create_time()}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
