"""The sampling engine: the same tokens whatever the batch, the probabilities of a full forward pass."""

import copy

import numpy as np
import pytest
import torch

from rleif.records import Sampling
from rleif.rollout import TransformersEngine, stop_ids
from rleif.rollout.sampling import choose, inverse_cdf, keep_nucleus, uniform_stream

PROMPTS = [[5, 9, 30, 31], [7], [40, 41, 42, 43, 44, 45, 46, 47, 48], [8, 8], [60, 61, 62]]
KEYS = [11, 12, 13, 14, 15]
FREE = Sampling(temperature=1.0, max_new_tokens=12, num_generations=3)


def flat(groups):
    return [completion for group in groups for completion in group]


@pytest.fixture
def livelier(tiny_model):
    """The tiny model with sharper logits and an end that comes now and then."""
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(30.0)
    tiny_model.generation_config.eos_token_id = [1, *range(300, 330)]
    return tiny_model


def test_a_completion_does_not_depend_on_its_company(livelier, tiny_tokenizer):
    together = TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, FREE, KEYS)
    for max_batch_size in (1, 4):
        apart = TransformersEngine(livelier, tiny_tokenizer, max_batch_size)(PROMPTS, FREE, KEYS)
        for first, second in zip(flat(together), flat(apart), strict=True):
            assert first.completion_ids == second.completion_ids
            assert first.logprobs == pytest.approx(second.logprobs, abs=1e-5)
    alone = TransformersEngine(livelier, tiny_tokenizer)(PROMPTS[2:3], FREE, KEYS[2:3])
    assert [c.completion_ids for c in alone[0]] == [c.completion_ids for c in together[2]]
    fewer = TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, Sampling(max_new_tokens=12), KEYS)
    assert [c[0].completion_ids for c in fewer] == [c[0].completion_ids for c in together]


def test_samples_of_a_prompt_differ_and_keys_matter(livelier, tiny_tokenizer):
    engine = TransformersEngine(livelier, tiny_tokenizer)
    drawn = engine(PROMPTS, FREE, KEYS)
    assert len({c.completion_ids for c in drawn[2]}) == 3
    assert [c.completion_ids for c in engine(PROMPTS, FREE, KEYS)[2]] == [c.completion_ids for c in drawn[2]]
    assert [c.completion_ids for c in engine(PROMPTS, FREE, [9, 9, 9, 9, 9])[2]] != [c.completion_ids for c in drawn[2]]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_full_forward_pass(livelier, tiny_tokenizer, temperature):
    sampling = Sampling(temperature=temperature, max_new_tokens=12, num_generations=3)
    for group in TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, sampling, KEYS):
        for c in group:
            ids = torch.tensor([[*c.prompt_ids, *c.completion_ids]])
            with torch.no_grad():
                full = (livelier(ids).logits[0] / temperature).log_softmax(dim=-1)
            start = len(c.prompt_ids)
            expected = full[start - 1 : -1].gather(-1, ids[0, start:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(c.logprobs), expected, rtol=0, atol=1e-5)


def test_greedy_equals_the_generation_of_transformers(livelier, tiny_tokenizer):
    greedy = Sampling(temperature=0.0, max_new_tokens=12)
    for prompt, group in zip(PROMPTS, TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, greedy, KEYS), strict=True):
        ids = torch.tensor([prompt])
        reference = livelier.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert list(group[0].completion_ids) == reference[0, len(prompt) :].tolist()


def test_the_end_token_is_kept_and_named_and_the_limit_too(livelier, tiny_tokenizer):
    ends = stop_ids(livelier, tiny_tokenizer)
    # Enough rows that finished ones stay in the batch for a while, where they go on and end a second time.
    many = Sampling(temperature=1.0, max_new_tokens=12, num_generations=40)
    found = flat(TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, many, KEYS))
    assert {c.finish_reason for c in found} == {"stop", "length"}
    for c in found:
        assert len(c.logprobs) == len(c.completion_ids)
        assert not ends.intersection(c.completion_ids[:-1])
        assert (c.completion_ids[-1] in ends) == (c.finish_reason == "stop")
        assert len(c.completion_ids) == 12 or c.finish_reason == "stop"


@pytest.mark.parametrize("pad", ["<eos>", None])
def test_padding_with_the_end_token_or_with_none_changes_nothing(livelier, tiny_tokenizer, pad):
    expected = TransformersEngine(livelier, tiny_tokenizer)(PROMPTS, FREE, KEYS)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = pad
    assert TransformersEngine(livelier, tokenizer)(PROMPTS, FREE, KEYS) == expected


def test_text_leaves_special_tokens_out(tiny_model, tiny_tokenizer):
    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    for c in flat(engine(PROMPTS, FREE, KEYS)):
        assert c.text == tiny_tokenizer.decode([i for i in c.completion_ids if i > 1])


def test_the_model_is_left_in_the_mode_it_was_in(tiny_model, tiny_tokenizer):
    tiny_model.train()
    TransformersEngine(tiny_model, tiny_tokenizer)([[5]], Sampling(max_new_tokens=1), [1])
    assert tiny_model.training


def test_a_prompt_that_leaves_no_room_is_refused(tiny_model, tiny_tokenizer):
    engine = TransformersEngine(tiny_model, tiny_tokenizer)
    with pytest.raises(ValueError, match=r"prompt 1 has 505 tokens; with max_new_tokens 8 .* 512 positions"):
        engine([[5], [5] * 505], Sampling(max_new_tokens=8), [1, 2])
    with pytest.raises(ValueError, match="prompt 0 has no tokens"):
        engine([[]], Sampling(), [1])
    with pytest.raises(ValueError, match="2 prompts but 1 keys"):
        engine([[5], [6]], Sampling(), [1])


def test_without_any_end_token_sampling_is_refused(tiny_model, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    tiny_model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="names an end-of-sequence token"):
        TransformersEngine(tiny_model, tokenizer)


def test_a_uniform_picks_the_token_whose_interval_it_falls_into():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for uniform, token in [(0.0, 1), (0.2499, 1), (0.25, 3), (0.9999, 3), (1.0, 3)]:
        assert inverse_cdf(probs, torch.tensor([uniform])).item() == token


def test_sampled_frequencies_are_the_probabilities():
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniforms = torch.from_numpy(uniform_stream(3, 0, 40_000)).float()
    counts = inverse_cdf(probs.expand(40_000, 4), uniforms).bincount(minlength=4) / 40_000
    # Standard error at most sqrt(0.25 / 40000) = 0.0025; four of them.
    torch.testing.assert_close(counts, probs, rtol=0, atol=0.01)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert keep_nucleus(probs, 0.7)[0].tolist() == [0.0, 0.5, 0.0, 0.25]
    assert keep_nucleus(probs, 0.01)[0].tolist() == [0.0, 0.5, 0.0, 0.0]
    tokens, logprobs = choose(probs.log(), torch.tensor([0.999]), temperature=1.0, top_p=0.7)
    assert tokens.item() == 3
    assert logprobs.item() == pytest.approx(np.log(0.25), abs=1e-6)


def test_a_longer_stream_begins_with_the_shorter_one():
    assert (uniform_stream(5, 1, 100)[:10] == uniform_stream(5, 1, 10)).all()
    assert (uniform_stream(5, 1, 10) != uniform_stream(5, 2, 10)).any()
