"""RLEIF in your own script: evolve problems, reward what you like, train with PPO.

    python examples/custom_loop.py --model path/to/sft --num_iterations 200 --rollout_batch_size 256

Every flag of RLEIFConfig works. The reward here is a few lines of Python; a path to a trained model goes in its place.
"""

import random
import re
import sys
from types import SimpleNamespace

from transformers import HfArgumentParser

from rleif import DownwardEvolution, RLEIFConfig, RLEIFTrainer, SymbolicTeacher, UpwardEvolution
from rleif.prompting import render_prompt
from rleif.teachers.symbolic import sample_problem

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")


class EquationChecker:
    """A process reward model by rule: a line is as good as the share of its equations that hold."""

    def score_steps(self, instructions, solutions):
        return [SimpleNamespace(scores=[self.score(line) for line in text.splitlines()]) for text in solutions]

    def score(self, line):
        values = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        right = [values[sign](int(a), int(b)) == int(c) for a, sign, b, c in EQUATION.findall(line)]
        return (sum(right) + 0.5) / (len(right) + 1)  # in (0, 1); a line without equations is worth a half


def main(arguments):
    parser = HfArgumentParser(RLEIFConfig)  # pyright: ignore[reportArgumentType]
    parser.add_argument("--model", required=True, help="hub id or path of any causal LM")
    parser.add_argument("--seeds", type=int, default=1000, help="seed problems")
    config, options = parser.parse_args_into_dataclasses(arguments)

    teacher = SymbolicTeacher(seed=config.seed)  # or an LLM behind the same five verbs
    rng = random.Random(config.seed)
    seeds = [sample_problem(rng, steps=rng.randint(1, 3)) for _ in range(options.seeds)]
    harder = UpwardEvolution(teacher, rounds=2).run(seeds).problems
    easier = DownwardEvolution(teacher, rounds=1).run(seeds).problems
    pool = {problem.id: problem for problem in [*harder, *easier]}.values()
    rows = [
        {"prompt": render_prompt(problem.instruction), "instruction": problem.instruction, "answer": problem.answer}
        for problem in pool
    ]
    print(f"{len(seeds)} seeds became {len(rows)} problems")

    # The reward is PRM x IRM. Here all problems are well-posed by construction, so there is no instruction model.
    trainer = RLEIFTrainer(options.model, irm=None, prm=EquationChecker(), args=config, train_dataset=rows)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(sys.argv[1:])
