"""Which prompts, random streams and samples go into which step; all functions of (seed, iteration)."""

import itertools

import pytest
import torch

from rleif import ppo_batch
from rleif.records import Completion


def completion(prompt, response):
    return Completion(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(response),
        logprobs=tuple(-0.1 * t for t in response),
        finish_reason="stop",
        text="",
    )


def pack(*completions, prompts=None, pad_id=0):
    rows = range(len(completions)) if prompts is None else prompts
    return ppo_batch.pack_rollouts(completions, rows, pad_id, torch.device("cpu"))


def test_completions_become_right_padded_tensors():
    rollouts = pack(completion([5, 6, 7], [1]), completion([8], [2, 3]))
    assert rollouts.input_ids.tolist() == [[5, 6, 7, 1], [8, 2, 3, 0]]
    assert rollouts.prompt_lengths.tolist() == [3, 1]
    assert rollouts.response_lengths.tolist() == [1, 2]
    assert rollouts.is_response.tolist() == [[True, False], [True, True]]
    torch.testing.assert_close(rollouts.engine_logprobs, torch.tensor([[-0.1, 0.0], [-0.2, -0.3]]))


def test_padding_is_known_by_length_even_if_the_pad_token_is_the_end_token():
    eos = 2
    rollouts = pack(completion([5], [7, eos]), completion([5], [7, 7, eos]), pad_id=eos)
    assert rollouts.is_response.tolist() == [[True, True, False], [True, True, True]]


def test_rows_are_cut_to_the_longest_of_them():
    rollouts = pack(completion([5] * 3, [1]), completion([8], [2, 3]), completion([8], [2] * 9))
    batch = ppo_batch.cut_rows(rollouts, torch.tensor([1, 0]), ("is_response",))
    assert batch["input_ids"].tolist() == [[8, 2, 3, 0], [5, 5, 5, 1]]
    assert batch["is_response"].tolist() == [[True, True], [True, False]]


def test_a_pass_uses_each_prompt_at_most_once_and_the_next_pass_orders_them_anew():
    passes = [[ppo_batch.prompt_indices(3, 4 * p + i, 17, 4) for i in range(4)] for p in range(3)]
    for one_pass in passes:
        assert len({index for part in one_pass for index in part}) == 16
    assert passes[0] != passes[1] != passes[2]
    assert ppo_batch.prompt_indices(4, 0, 17, 4) != passes[0][0]


def test_sampling_streams_differ_between_prompts_iterations_and_seeds():
    keys = [ppo_batch.sampling_keys(seed, iteration, range(5)) for seed in (1, 2) for iteration in (0, 1)]
    assert len({key for row in keys for key in row}) == 20


def test_the_mini_batches_of_an_epoch_are_a_partition_and_differ_between_epochs():
    epochs = [[ppo_batch.mini_batch_indices(0, 5, epoch, m, 12, 3) for m in range(3)] for epoch in range(2)]
    for parts in epochs:
        assert sorted(torch.cat(parts).tolist()) == list(range(12))
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_samples_of_a_prompt_stay_in_one_mini_batch_but_for_those_at_its_limits(count):
    parts = [ppo_batch.mini_batch_indices(0, 5, 0, m, 60, count, per_prompt=4).tolist() for m in range(count)]
    assert sorted(itertools.chain(*parts)) == list(range(60))
    divided = sum(len({sample // 4 for sample in part}) for part in parts) - 15
    assert divided <= (count - 1 if (60 // count) % 4 else 0)


@pytest.mark.parametrize(("processes", "count"), [(1, 1), (1, 5), (2, 2), (3, 2)])
def test_processes_and_micro_batches_share_a_mini_batch_without_loss_or_repetition(processes, count):
    rollouts = pack(*(completion([5], [7] * (1 + i % 11)) for i in range(30)), prompts=[i // 4 for i in range(30)])
    chosen = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:18]
    parts = [ppo_batch.split_micro_batches(rollouts, chosen, count, p, processes) for p in range(processes)]
    assert all(len(part) == count for part in parts)
    assert {len(micro_batch) for part in parts for micro_batch in part} <= {
        18 // (processes * count) + i for i in (0, 1)
    }
    assert sorted(torch.cat([torch.cat(part) for part in parts]).tolist()) == sorted(chosen.tolist())


def test_micro_batches_hold_similar_lengths():
    rollouts = pack(*(completion([5], [7] * length) for length in (9, 1, 8, 2, 7, 3)))
    parts = ppo_batch.split_micro_batches(rollouts, torch.arange(6), 3)
    assert [rollouts.response_lengths[part].tolist() for part in parts] == [[9, 8], [7, 3], [2, 1]]


def test_the_completions_of_a_prompt_stand_together():
    rollouts = pack(*(completion([5], [7] * length) for length in (3, 9, 4, 1, 5, 9)), prompts=[8, 6, 8, 6, 8, 2])
    chosen = torch.tensor([0, 1, 2, 3, 5])
    ordered = chosen[ppo_batch.length_order(rollouts, chosen)]
    # Prompts 2 and 6 both reach 9 tokens; prompt 8 reaches 4 here, since its longest is not chosen.
    assert ordered.tolist() == [5, 1, 3, 2, 0]
