"""Two processes do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ppo_world import three_iterations, weights
from transformers import LlamaForCausalLM

TESTS = Path(__file__).parent


@pytest.mark.slow  # two more processes have to import torch and transformers
def test_two_processes_train_the_same_policy_as_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    subprocess.run(
        [*command, str(TESTS / "ppo_world.py"), str(tmp_path / "two")],
        check=True, timeout=500, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    one = three_iterations(tmp_path / "one")
    policy = weights(LlamaForCausalLM.from_pretrained(tmp_path / "two"))
    expected = weights(one.model.policy)
    assert (policy - expected).norm() / expected.norm() <= 1e-5
    assert torch.equal(weights(LlamaForCausalLM.from_pretrained(tmp_path / "one")), expected)
    two_log = json.loads((tmp_path / "two" / "log.json").read_text())
    for row, other in zip(one.state.log_history, two_log, strict=True):
        for name, value in row.items():
            if name.split("/")[0] not in {"time", "rollout"} and "runtime" not in name and "per_second" not in name:
                assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    # The first process writes its own samples, which stand first: as many as one process writes here.
    tables = [(tmp_path / name / "completions.jsonl").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]
