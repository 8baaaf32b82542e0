"""Imports go one way, and the cheap entrances stay cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lower may not import higher, and the stages not one another. A module belongs to the longest prefix that fits.
LAYERS = {
    0: ["rleif", "rleif.records", "rleif.prompting", "rleif.settings", "rleif.tiny"],
    1: ["rleif.config", "rleif.teachers", "rleif.grading", "rleif.rewards", "rleif.losses", "rleif.sources"],
    2: ["rleif.evolution", "rleif.labeling", "rleif.sft", "rleif.dpo", "rleif.rollout", "rleif.evaluate"],
    3: ["rleif.trainer", "rleif.checkpoint", "rleif.completions_table", "rleif.experience", "rleif.policy_evaluation",
        "rleif.policy_value", "rleif.ppo_batch", "rleif.ppo_models", "rleif.zero3", "rleif.prompt_set", "rleif.scoring",
        "rleif.shared_prompts"],
    4: ["rleif.pipeline", "rleif.report", "rleif.figures", "rleif.plan", "rleif.memory", "rleif.cli", "rleif.__main__"],
}  # fmt: skip
STAGE_LAYER = 2
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "matplotlib", "deepspeed", "pandas")


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path):
    """Every module a file imports, anywhere in it, except for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(module):
    """(layer, prefix) of a module; names inside modules count as their module."""
    fits = [
        (prefix, layer)
        for layer, prefixes in LAYERS.items()
        for prefix in prefixes
        if module == prefix or (prefix != "rleif" and module.startswith(prefix + "."))
    ]
    return (max(fits)[1], max(fits)[0]) if fits else None


def test_every_module_has_a_layer():
    assert [name for name, _ in modules("rleif") if place(name) is None] == []


def test_no_module_imports_a_higher_layer():
    wrong = []
    for name, path in modules("rleif"):
        if name == "rleif":
            continue  # its exports are lazy
        layer = place(name)[0]
        wrong += [f"{name} imports {other}" for other in imported(path) if (to := place(other)) and to[0] > layer]
    assert wrong == []


def test_stages_never_import_each_other():
    wrong = []
    for name, path in modules("rleif"):
        own = place(name)
        if own[0] == STAGE_LAYER:
            wrong += [
                f"{name} imports {other}"
                for other in imported(path)
                if (to := place(other)) and to[0] == STAGE_LAYER and to != own
            ]
    assert wrong == []


def test_reward_models_knows_nothing_of_rleif():
    for name, path in modules("reward_models"):
        assert not [other for other in imported(path) if other.split(".")[0] == "rleif"], name


@pytest.mark.parametrize(
    "code",
    [
        "import rleif",
        "import reward_models",
        "import rleif.cli",
        "from rleif import Problem, Rejection, Operator",
        "import rleif.cli; rleif.cli.main(['--help'])",
        "import rleif.cli; rleif.cli.main(['run', '--help'])",
        "import rleif.cli; rleif.cli.main(['pppo'])",
    ],
)
def test_the_cheap_entrances_leave_the_heavy_libraries_alone(code):
    check = f"import sys\n{code}\nprint([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stderr.splitlines()[-1] == "[]"
