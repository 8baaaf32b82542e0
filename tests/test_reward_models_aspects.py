"""`aspect_coef`: the instruction reward model also learns why a list is ranked as it is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reward_world import QUICK, ranked_lists, saved, trained_head
from transformers import AutoModelForSequenceClassification

from reward_models.backbone import load_network, names_in_order
from reward_models.irm import InstructionRewardModel, IRMConfig, IRMTrainer, aspect_ranges
from reward_models.records import DataError, RankedInstructions, ranked_from_row

ASPECTS = {"definition": [1, 0.5, 0], "precision": [1, 1, 1], "steps": [2, None, 4]}
LISTS = [
    RankedInstructions(tiers=(("one",), ("two", "three")), aspects=ASPECTS),
    RankedInstructions(tiers=(("four",), ("five",)), aspects={"definition": [0, 1]}),
]


def trainer(path: str, folder: Path, records: list[RankedInstructions] = LISTS, **config: Any) -> IRMTrainer:
    options = {"aspect_coef": 0.5, **QUICK} | config
    return IRMTrainer(path, IRMConfig(output_dir=str(folder), **options), records)


def questions(count: int, seed: int) -> list[RankedInstructions]:
    """Lists in which the best text alone asks a question, and which say so."""
    return [
        RankedInstructions(tiers=item.tiers, aspects={"definition": [1.0, 0.0, 0.0], "length": [3, 3, 3]})
        for item in ranked_lists(count, seed)
    ]


def test_an_aspect_counts_where_it_varies_and_unknown_values_are_left_out() -> None:
    no_pair = RankedInstructions(tiers=(("six", "seven"),), aspects={"precision": [0, 1], "other": [0, 1]})
    assert aspect_ranges([*LISTS, no_pair]) == {"definition": (0.0, 1.0), "steps": (2.0, 4.0)}


@pytest.mark.parametrize(
    "bad", [[1, 0], [1, 0, "good"], [1, 0, math.nan], [1, 0, 10**400], [1, 0, True], "110", {"one": 1}]
)
def test_an_aspect_is_a_number_for_each_instruction(bad: Any) -> None:
    record = RankedInstructions(tiers=LISTS[0].tiers, aspects={"definition": bad})
    with pytest.raises(DataError, match=r"aspect 'definition' of the list of 'one' is .*; expected 3 numbers"):
        aspect_ranges([record])


def test_the_loss_is_the_mean_over_a_list_beside_the_ranking_loss(tmp_path: Path, base: str) -> None:
    made = trainer(base, tmp_path)
    torch.nn.init.normal_(made.network.score.weight, std=0.5)
    batch = made._collate([made.train_dataset[i] for i in range(2)])
    made.model.train()
    logits, loss = made._logits_and_loss(made.model, batch)
    definition, steps = logits[:, 0, 1], logits[:, 0, 2]

    def entropy(logit: torch.Tensor, target: float) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logit, torch.tensor(target))

    first = sum(entropy(definition[i], t) for i, t in enumerate((1.0, 0.5, 0.0)))
    first = first + entropy(steps[0], 0.0) + entropy(steps[2], 1.0)  # scaled from 2..4, and unknown in between
    second = entropy(definition[3], 0.0) + entropy(definition[4], 1.0)
    ranking = made._losses(logits, batch)
    assert loss.item() == pytest.approx((ranking + 0.5 * (first / 6 + second / 4)).item(), rel=1e-5)
    made.model.eval()
    assert made._logits_and_loss(made.model, batch)[1].item() == pytest.approx(ranking.item(), rel=1e-6)


def test_the_update_does_not_depend_on_the_micro_batch_split(tmp_path: Path, base: str) -> None:
    lists = [
        RankedInstructions(
            tiers=tuple((f"text {i} {j}",) for j in range(2 + i % 4)), aspects={"steps": list(range(2 + i % 4))}
        )
        for i in range(6)
    ]
    updated = []
    for size in (6, 2, 1):
        network = trained_head(base, "irm", torch.float64, aspects=["steps"])
        options = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        splits = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 6 // size}
        config = IRMConfig(output_dir=str(tmp_path / str(size)), aspect_coef=0.7, **options, **splits, **QUICK)
        assert IRMTrainer(network, config, lists).train().global_step == 1
        updated.append({name: weight.detach() for name, weight in network.named_parameters()})
    before = trained_head(base, "irm", torch.float64, aspects=["steps"]).score.weight
    assert (updated[0]["score.weight"] - before).abs().amax(1).min() > 1e-3  # both outputs learned
    for weights in updated[1:]:
        for name, weight in weights.items():
            torch.testing.assert_close(weight, updated[0][name], rtol=0, atol=1e-10)


def test_a_saved_model_tells_aspects_beside_a_score_that_plain_transformers_reads(tmp_path: Path, base: str) -> None:
    made = IRMTrainer(
        base,
        IRMConfig(output_dir=str(tmp_path / "irm"), aspect_coef=1.0, learning_rate=1e-2, max_steps=60, **QUICK),
        questions(200, seed=0),
        questions(100, seed=1),
    )
    made.train()
    assert made.evaluate()["eval_pair_accuracy"] >= 0.95
    made.save_model()
    irm = InstructionRewardModel.from_pretrained(str(tmp_path / "irm"))
    assert irm.aspect_names == ("definition",)  # length is the same everywhere
    texts = [text for item in questions(20, seed=2) for tier in item.tiers for text in tier]
    told = [item["definition"] > 0.5 for item in irm.aspects(texts, batch_size=7)]
    assert told == [text.endswith("How many pens?") for text in texts]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "irm")
    assert plain.config.id2label == {0: "quality", 1: "definition"}
    ids = irm.tokenizer(texts[0])["input_ids"] + [irm.tokenizer.eos_token_id]
    with torch.no_grad():
        shares = torch.sigmoid(plain(torch.tensor([ids])).logits[0].double()).tolist()
    assert [irm.score(texts[:1])[0], irm.aspects(texts[:1])[0]["definition"]] == pytest.approx(shares, abs=1e-6)


@pytest.fixture
def with_aspects(tmp_path: Path, base: str) -> tuple[str, torch.Tensor]:
    """A saved model with outputs for definition and steps, and its head."""
    made = trainer(base, tmp_path / "first")
    torch.nn.init.normal_(made.network.score.weight, std=0.5)
    made.save_model()
    return str(tmp_path / "first"), made.network.score.weight.detach()


def test_training_goes_on_from_a_model_with_aspects_whatever_their_order(
    tmp_path: Path, with_aspects: tuple[str, torch.Tensor]
) -> None:
    path, head = with_aspects
    assert torch.equal(trainer(path, tmp_path / "again").network.score.weight, head)
    other = RankedInstructions(tiers=LISTS[1].tiers, aspects={"steps": [1, 2], "new": [0, 1], "definition": [1, 0]})
    again = trainer(path, tmp_path / "other", [other])
    assert names_in_order(again.network.config) == ("quality", "steps", "new", "definition")
    score, definition, steps = head
    expected = torch.stack([score, steps, torch.zeros_like(score), definition])
    assert torch.equal(again.network.score.weight, expected)


def test_the_score_alone_can_be_trained_on_from_a_model_with_aspects_or_measured(
    tmp_path: Path, with_aspects: tuple[str, torch.Tensor], base: str
) -> None:
    path, head = with_aspects
    without = trainer(path, tmp_path / "without", aspect_coef=0.0)
    assert torch.equal(without.network.score.weight, head[:1])
    without.save_model()
    assert InstructionRewardModel.from_pretrained(str(tmp_path / "without")).aspect_names == ()
    measured = IRMTrainer(path, IRMConfig(output_dir=str(tmp_path / "eval"), **QUICK), None, LISTS)
    assert torch.equal(measured.network.score.weight, head)
    assert "eval_pair_accuracy" in measured.evaluate()
    # Token classification has a bias, which is not in the file: a new head.
    assert load_network(path, "prm", trained=False, dtype=torch.float32).score.weight.abs().max() == 0
    added = trainer(str(tmp_path / "without"), tmp_path / "added")
    assert torch.equal(added.network.score.weight, torch.cat([head[:1], torch.zeros_like(head[1:])]))


def test_a_model_without_aspects_tells_none(tmp_path: Path, base: str) -> None:
    irm = InstructionRewardModel.from_pretrained(saved(base, tmp_path / "irm", "irm"))
    assert irm.aspect_names == ()
    assert irm.aspects(["one", "two"]) == [{}, {}]


def test_what_cannot_be_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ValueError, match=r"aspect_coef must be at least 0, got -1\.0"):
        IRMConfig(output_dir=str(tmp_path), aspect_coef=-1.0, **QUICK)
    with pytest.raises(DataError, match="none of the 3 lists has such: set aspect_coef to 0"):
        trainer(base, tmp_path, ranked_lists(3, seed=0))
    config = IRMConfig(output_dir=str(tmp_path), aspect_coef=1.0, **QUICK)
    for given, found in (([], "none"), (["steps", "definition"], "steps, definition")):
        words = (
            f"outputs for the aspects {found}, but those of the lists are definition, steps: give load_network these"
        )
        with pytest.raises(ValueError, match=words):
            IRMTrainer(trained_head(base, "irm", aspects=given), config, LISTS)
    named_as_the_score = RankedInstructions(tiers=LISTS[0].tiers, aspects={"quality": [1, 0, 0]})
    with pytest.raises(DataError, match="an aspect may not be called 'quality'"):
        aspect_ranges([named_as_the_score])
    with pytest.raises(DataError, match="`aspects` must be an object with a list for each name, got"):
        ranked_from_row({"tiers": [["one"], ["two"]], "aspects": [1, 0]})
