"""Which prompts, random streams and samples go into which step; all functions of (seed, iteration)."""

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


def test_completions_become_right_padded_tensors():
    rollouts = ppo_batch.pack_rollouts([completion([5, 6, 7], [1]), completion([8], [2, 3])], 0, torch.device("cpu"))
    assert rollouts.input_ids.tolist() == [[5, 6, 7, 1], [8, 2, 3, 0]]
    assert rollouts.prompt_lengths.tolist() == [3, 1]
    assert rollouts.response_lengths.tolist() == [1, 2]
    assert rollouts.is_response.tolist() == [[True, False], [True, True]]
    torch.testing.assert_close(rollouts.engine_logprobs, torch.tensor([[-0.1, 0.0], [-0.2, -0.3]]))


def test_padding_is_known_by_length_even_if_the_pad_token_is_the_end_token():
    eos = 2
    rollouts = ppo_batch.pack_rollouts(
        [completion([5], [7, eos]), completion([5], [7, 7, eos])], eos, torch.device("cpu")
    )
    assert rollouts.is_response.tolist() == [[True, True, False], [True, True, True]]


def test_rows_are_cut_to_the_longest_of_them():
    rollouts = ppo_batch.pack_rollouts(
        [completion([5] * 3, [1]), completion([8], [2, 3]), completion([8], [2] * 9)], 0, torch.device("cpu")
    )
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


@pytest.mark.parametrize(("processes", "count"), [(1, 1), (1, 5), (2, 2), (3, 2)])
def test_processes_and_micro_batches_share_a_mini_batch_without_loss_or_repetition(processes, count):
    chosen, lengths = torch.randperm(30)[:18], torch.randint(1, 50, (30,))
    parts = [ppo_batch.split_micro_batches(chosen, lengths, count, p, processes) for p in range(processes)]
    assert all(len(part) == count for part in parts)
    assert sorted(torch.cat([torch.cat(part) for part in parts]).tolist()) == sorted(chosen.tolist())


def test_micro_batches_hold_similar_lengths():
    lengths = torch.tensor([9, 1, 8, 2, 7, 3])
    parts = ppo_batch.split_micro_batches(torch.arange(6), lengths, 3)
    assert [lengths[part].tolist() for part in parts] == [[9, 8], [7, 3], [2, 1]]
