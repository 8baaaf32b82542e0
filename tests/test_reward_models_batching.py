"""Length buckets: every row once an epoch, little padding, and batches in no order of length."""

import itertools
import random

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from reward_models.batching import LengthBuckets, TrainsInLengthBuckets
from reward_models.training import RewardTrainer
from rleif import sft


def some_lengths(count, seed=0):
    rng = random.Random(seed)
    return [rng.randint(1, 200) for _ in range(count)]


def batches(sampler):
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


@pytest.mark.parametrize("count", [0, 1, 7, 16, 129, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_every_row_comes_once_an_epoch(count, batch_size):
    sampler = LengthBuckets(some_lengths(count), batch_size, seed=3)
    assert len(sampler) == count
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(count))


def test_batches_are_padded_to_less_than_two_thirds_of_random_ones():
    lengths = some_lengths(2000)
    bucketed = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches(LengthBuckets(lengths, 16, 0)))
    shuffled = random.Random(0).sample(range(2000), 2000)
    at_random = sum(max(lengths[i] for i in shuffled[k : k + 16]) * 16 for k in range(0, 2000, 16))
    assert sum(lengths) <= bucketed < at_random * 2 / 3


def test_neighbouring_batches_do_not_go_from_long_to_short():
    lengths = some_lengths(4000)
    longest = [max(lengths[i] for i in batch) for batch in batches(LengthBuckets(lengths, 16, 0))]
    falls = sum(after < before for before, after in itertools.pairwise(longest))
    assert 0.4 < falls / (len(longest) - 1) < 0.6  # sorted pools of eight would fall seven times of eight


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = some_lengths(500)
    first, second = LengthBuckets(lengths, 8, seed=1), LengthBuckets(lengths, 8, seed=1)
    assert list(first) == list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(LengthBuckets(lengths, 8, seed=2))


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        LengthBuckets([1, 2], 0, seed=0)


class RecordingTrainer(TrainsInLengthBuckets, Trainer):
    """Writes down the rows of every training step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen.append(inputs["row"].tolist())
        return torch.tensor(0.0)


def rows_seen(model, folder, **options):
    lengths = [2, 9, 3, 8, 4, 7, 5, 6] * 8
    rows = Dataset.from_list([{"input_ids": [1] * length, "row": i} for i, length in enumerate(lengths)])
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, num_train_epochs=2, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False, **options,
    )  # fmt: skip

    def collate(batch):
        return {"row": torch.tensor([row["row"] for row in batch])}

    trainer = RecordingTrainer(model, args, data_collator=collate, train_dataset=rows)
    trainer.train()
    return trainer.seen, lengths


def test_a_trainer_goes_through_other_buckets_every_epoch_and_the_same_ones_again(tiny_model, tmp_path):
    seen, lengths = rows_seen(tiny_model, tmp_path, train_sampling_strategy="group_by_length")
    first, second = seen[:16], seen[16:]
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(64))
    assert first != second
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in seen]
    assert max(spread) <= 3
    assert rows_seen(tiny_model, tmp_path, train_sampling_strategy="group_by_length")[0] == seen


def test_a_trainer_asked_for_random_order_has_it(tiny_model, tmp_path):
    seen, lengths = rows_seen(tiny_model, tmp_path, train_sampling_strategy="random")
    assert max(max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in seen) > 3


def test_our_trainers_are_among_them():
    assert issubclass(RewardTrainer, TrainsInLengthBuckets)
    assert issubclass(sft.Trainer, TrainsInLengthBuckets)
