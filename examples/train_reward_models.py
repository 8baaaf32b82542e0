"""Train both reward models from JSONL files, then score with them. Nothing of rleif is used.

    python examples/train_reward_models.py --model Qwen/Qwen2.5-Math-1.5B --ranked ranked.jsonl --stepped stepped.jsonl

ranked.jsonl, best tier first:  {"tiers": [["a clear problem"], ["a vague one", "another vague one"]]}
stepped.jsonl, labels -1/0/+1:  {"instruction": "(2 + 3) * 2?", "steps": ["2 + 3 = 5", "5 * 2 = 1"], "labels": [1, -1]}
"""

import argparse
from pathlib import Path

from reward_models import (
    InstructionRewardModel,
    IRMConfig,
    IRMTrainer,
    PRMConfig,
    PRMTrainer,
    ProcessRewardModel,
    aggregate,
    read_labeled,
    read_ranked,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="hub id or path of any causal LM")
    parser.add_argument("--ranked", required=True, help="ranked instructions, JSONL")
    parser.add_argument("--stepped", required=True, help="solutions judged step by step, JSONL")
    parser.add_argument("--output", type=Path, default=Path("runs/reward_models"))
    parser.add_argument("--learning_rate", type=float, default=4e-6)
    options = parser.parse_args()
    irm_folder, prm_folder = str(options.output / "irm"), str(options.output / "prm")

    ranked = read_ranked(options.ranked)
    heldout = len(ranked) // 10 or 1
    irm_config = IRMConfig(output_dir=irm_folder, learning_rate=options.learning_rate, save_strategy="no")
    irm_trainer = IRMTrainer(options.model, irm_config, ranked[heldout:], ranked[:heldout])
    irm_trainer.train()
    print("held-out pair accuracy", irm_trainer.evaluate()["eval_pair_accuracy"])
    irm_trainer.save_model()

    stepped = read_labeled(options.stepped)
    heldout = len(stepped) // 10 or 1
    prm_config = PRMConfig(output_dir=prm_folder, learning_rate=options.learning_rate, save_strategy="no")
    prm_trainer = PRMTrainer(options.model, prm_config, stepped[heldout:], stepped[:heldout])
    prm_trainer.train()
    print("held-out first-error F1", prm_trainer.evaluate()["eval_first_error_f1"])
    prm_trainer.save_model()

    problem, solution = stepped[0].instruction, "\n".join(stepped[0].steps)
    quality = InstructionRewardModel.from_pretrained(irm_folder).score([problem])[0]
    steps = ProcessRewardModel.from_pretrained(prm_folder).score_steps([problem], [solution])[0]
    print(f"reward {quality * aggregate(steps.scores, 'min'):.3f} = {quality:.3f} x min of {steps.scores}")


if __name__ == "__main__":
    main()
