"""`make` on a fresh machine: which Python it takes, what it installs, what it says where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")

OLD = """#!/bin/sh
if [ "$1" = --version ]; then echo "Python 3.9.2"; else exit 1; fi
"""
# Makes an environment whose Python writes down how it is called.
NEW = """#!/bin/sh
if [ "$2" = venv ]; then
  mkdir -p .venv/bin
  printf '#!/bin/sh\\nif [ "$1" != -c ]; then echo "$@" >> calls.txt; fi\\n' > .venv/bin/python
  chmod +x .venv/bin/python
fi
"""


def make(folder, goal, **pythons):
    """`make goal` in a copy of the project's root, with these Pythons and no others."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sh", "grep", "touch", "mkdir", "chmod"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, script in pythons.items():
        path = programs / name.replace("_", ".")
        path.write_text(script)
        path.chmod(0o755)
    environment = {"PATH": str(programs)}
    return subprocess.run([str(MAKE), goal], cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("pythons", "found"), [({"python3": OLD}, r"Python 3.9.2"), ({}, "none")])
def test_without_a_python_that_is_new_enough_make_says_what_it_needs_and_found(tmp_path, pythons, found):
    done = make(tmp_path, "gsm8k", **pythons)
    assert done.returncode != 0
    told = f"rleif needs Python 3.11 or newer; found: {found}. Install one, or say: make PYTHON=/path/to/python gsm8k"
    assert done.stderr.splitlines()[0] == told
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("goal", "job"), [("test", "-m pytest -n 2"), ("gsm8k", "-m rleif run examples/configs/gsm8k_symbolic.yaml")]
)
def test_the_first_python_that_is_new_enough_installs_the_tested_versions_and_does_the_job(tmp_path, goal, job):
    done = make(tmp_path, goal, python3=OLD, python3_12=NEW)
    assert done.returncode == 0, done.stderr
    torch, everything, *rest = (tmp_path / "calls.txt").read_text().splitlines()
    assert torch.startswith("-m pip install ")
    assert torch.endswith(" torch==2.13.0")
    assert everything.endswith(" -c constraints.txt -e .[test]")
    assert rest == [job]
    subprocess.run([str(MAKE), goal], cwd=tmp_path, env={"PATH": str(tmp_path / "bin")}, check=True)
    assert (tmp_path / "calls.txt").read_text().splitlines()[2:] == [job, job]  # installed once


def test_continuous_integration_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert lines == ["make test"]
