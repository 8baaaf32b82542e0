"""Log-probs and values from hidden states at response positions, against a plain forward pass."""

import copy
import math

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rleif import policy_value
from rleif.checkpoint import load_policy_and_value, save_policy_and_value
from rleif.policy_value import PolicyAndValue, make_value_model, response_logprobs, response_values, value_head
from rleif.ppo_batch import pack_rollouts
from rleif.records import Completion

ROWS = [([5, 9, 30], [40, 41, 1]), ([7, 8], [60]), ([10, 11, 12, 13], [50, 51, 52, 53, 54])]


@pytest.fixture
def batch():
    return batch_of(ROWS)


def batch_of(rows, pad_id=0, extra=0):
    completions = [
        Completion(
            prompt_ids=tuple(p), completion_ids=tuple(r), logprobs=(0.0,) * len(r), finish_reason="stop", text=""
        )
        for p, r in rows
    ]
    packed = pack_rollouts(completions, range(len(rows)), pad_id, torch.device("cpu"))
    return {
        "input_ids": torch.nn.functional.pad(packed.input_ids, (0, extra), value=pad_id),
        "prompt_lengths": packed.prompt_lengths,
        "is_response": torch.nn.functional.pad(packed.is_response, (0, extra)),
    }


@pytest.fixture
def value_model(tiny_model):
    value = make_value_model(tiny_model).eval()
    torch.nn.init.normal_(value_head(value).weight, generator=torch.Generator().manual_seed(0))
    return value


def plain_logprobs(model, prompt, response, temperature=1.0):
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].double() / temperature
    table = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    entropy = -(table.exp() * table).sum(dim=-1)
    return table.gather(-1, torch.tensor(response)[:, None]).squeeze(-1).float(), entropy.float()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [2**24, 1000])
def test_logprobs_and_entropy_equal_a_plain_forward_pass(tiny_model, batch, temperature, budget, monkeypatch):
    monkeypatch.setattr(policy_value, "LOGIT_BUDGET", budget)  # 1000: two tokens a chunk
    logprobs, entropy = response_logprobs(tiny_model, **batch, temperature=temperature)
    for row, (prompt, response) in enumerate(ROWS):
        expected = plain_logprobs(tiny_model, prompt, response, temperature)
        torch.testing.assert_close(logprobs[row, : len(response)], expected[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(entropy[row, : len(response)], expected[1], rtol=0, atol=1e-5)
        assert not logprobs[row, len(response) :].any()


def test_chunks_give_the_gradient_of_the_whole(tiny_model, batch, monkeypatch):
    gradients = []
    for budget in (2**24, 1000):
        monkeypatch.setattr(policy_value, "LOGIT_BUDGET", budget)
        tiny_model.zero_grad()
        logprobs, entropy = response_logprobs(tiny_model, **batch, temperature=1.0, entropy_gradient=True)
        (logprobs + 0.1 * entropy).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in tiny_model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_no_tensor_of_vocabulary_size_outlives_a_chunk(tiny_model, batch, monkeypatch):
    monkeypatch.setattr(policy_value, "LOGIT_BUDGET", 1000)
    vocabulary, sizes = tiny_model.config.vocab_size, []

    def note(tensor):
        if tensor.ndim and tensor.shape[-1] == vocabulary:
            sizes.append(tensor.numel() // vocabulary)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        response_logprobs(tiny_model, **batch, temperature=1.0)[0].sum()
    assert not sizes


def test_values_are_the_head_on_the_state_before_each_token(value_model, batch):
    values = response_values(value_model, **batch)
    for row, (prompt, response) in enumerate(ROWS):
        expected = value_model(torch.tensor([[*prompt, *response]])).logits[0, :, 0]
        torch.testing.assert_close(values[row, : len(response)], expected[len(prompt) - 1 : -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pad_id", [0, 1, 77])
@pytest.mark.parametrize("extra", [0, 1, 64])
def test_padding_of_any_kind_and_amount_changes_nothing(tiny_model, value_model, batch, pad_id, extra):
    padded = batch_of(ROWS, pad_id, extra)
    width = batch["is_response"].shape[1]
    for compute in (
        lambda b: response_logprobs(tiny_model, **b, temperature=1.0)[0],
        lambda b: response_values(value_model, **b),
    ):
        torch.testing.assert_close(compute(padded)[:, :width], compute(batch), rtol=0, atol=1e-5)


def test_rows_that_do_not_count_are_not_computed(tiny_model, batch):
    batch["is_response"][1] = False
    logprobs, entropy = response_logprobs(tiny_model, **batch, temperature=1.0)
    assert not logprobs[1].any()
    assert not entropy[1].any()
    nothing = {**batch, "is_response": torch.zeros_like(batch["is_response"])}
    response_logprobs(tiny_model, **nothing, temperature=1.0)[0].sum().backward()
    assert all(not p.grad.any() for p in tiny_model.parameters())


def test_the_entropy_carries_a_gradient_only_if_asked(tiny_model, batch):
    assert not response_logprobs(tiny_model, **batch, temperature=1.0)[1].requires_grad
    assert response_logprobs(tiny_model, **batch, temperature=1.0, entropy_gradient=True)[1].requires_grad


def test_a_new_critic_has_the_policys_layers_and_says_0_everywhere(tiny_model, batch):
    value = make_value_model(tiny_model)
    assert isinstance(value, LlamaForTokenClassification)
    assert torch.equal(response_values(value, **batch), torch.zeros(3, 5))
    pairs = zip(value.base_model.parameters(), tiny_model.base_model.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)


def test_the_value_head_stays_in_fp32(tiny_model, batch):
    module = PolicyAndValue(tiny_model.bfloat16(), make_value_model(tiny_model.bfloat16()))
    assert value_head(module.value).weight.dtype == torch.float32
    assert module(**batch)["values"].dtype == torch.float32


def test_another_architecture_with_dropout_works_and_dropout_is_off(batch):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=100, n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5)
    policy = GPT2LMHeadModel(config)
    module = PolicyAndValue(policy, make_value_model(policy)).train()
    first, second = module(**batch), module(**batch)
    assert torch.equal(first["logprobs"], second["logprobs"])
    torch.testing.assert_close(first["logprobs"][0, :3], plain_logprobs(policy.eval(), *ROWS[0])[0], rtol=0, atol=1e-5)
    module.activation_checkpointing_enable()  # which needs train mode
    assert torch.equal(module.train()(**batch)["logprobs"], first["logprobs"])
    assert policy.config.resid_pdrop == 0.5


def test_activation_checkpointing_changes_nothing_but_memory(tiny_model, batch):
    module = PolicyAndValue(tiny_model, make_value_model(tiny_model))
    expected = module(**batch)["logprobs"].detach()
    module.activation_checkpointing_enable()
    module.train()
    assert module.policy.training
    torch.testing.assert_close(module(**batch)["logprobs"].detach(), expected, rtol=0, atol=0)


def test_scaled_and_capped_logits_are_respected(tiny_model, batch):
    plain, _ = response_logprobs(tiny_model, **batch, temperature=2.0)
    tiny_model.config.logits_scaling = 2.0  # as Granite has it
    scaled, _ = response_logprobs(tiny_model, **batch, temperature=1.0)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-6)
    tiny_model.config.logits_scaling, tiny_model.config.final_logit_softcapping = None, 1e-4  # as Gemma 2 has it
    capped, _ = response_logprobs(tiny_model, **batch, temperature=1.0)
    uniform = -math.log(tiny_model.config.vocab_size)
    assert capped[batch["is_response"]].tolist() == pytest.approx([uniform] * 9, abs=1e-3)


def test_policy_and_critic_survive_the_disk_and_are_plain_checkpoints(tiny_model, value_model, batch, tmp_path):
    module = PolicyAndValue(tiny_model, value_model)
    expected = module(**batch)
    save_policy_and_value(module, tmp_path)
    with torch.no_grad():
        other = copy.deepcopy(module)
        for parameter in other.parameters():
            parameter.add_(1.0)
    load_policy_and_value(other, tmp_path)
    found = other(**batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    policy = type(tiny_model).from_pretrained(tmp_path)
    value = LlamaForTokenClassification.from_pretrained(tmp_path / "value")
    assert torch.equal(policy.lm_head.weight, tiny_model.lm_head.weight)
    assert torch.equal(value.score.weight, value_model.score.weight)


def test_a_gathered_state_dict_is_split_between_policy_and_critic(tiny_model, value_model, tmp_path):
    module = PolicyAndValue(tiny_model, value_model)
    gathered = {name: tensor + 1.0 for name, tensor in module.state_dict().items()}
    save_policy_and_value(module, tmp_path, gathered)
    policy = type(tiny_model).from_pretrained(tmp_path)
    assert torch.equal(policy.lm_head.weight, tiny_model.lm_head.weight + 1.0)
    value = LlamaForTokenClassification.from_pretrained(tmp_path / "value")
    assert torch.equal(value.score.weight, value_model.score.weight + 1.0)


def test_a_folder_without_weights_is_no_checkpoint(tiny_model, tmp_path):
    module = PolicyAndValue(tiny_model, make_value_model(tiny_model))
    with pytest.raises(ValueError, match="holds no safetensors weights"):
        load_policy_and_value(module, tmp_path)


SHARED = [([5, 9, 30], [40, 41, 1]), ([5, 9, 30], [60]), ([7], [50, 51]), ([8, 9], [52]), ([8, 9], [52, 53, 54, 55, 1])]
PROMPTS = torch.tensor([3, 3, 9, 4, 4])


@pytest.mark.parametrize("rows", [SHARED, [(prompt, response[:1]) for prompt, response in SHARED]])
def test_a_prompt_computed_once_gives_the_numbers_and_gradients_of_computing_it_each_time(tiny_model, rows):
    value = make_value_model(tiny_model)
    torch.nn.init.normal_(value_head(value).weight, generator=torch.Generator().manual_seed(0))
    module, batch, found = PolicyAndValue(tiny_model, value), batch_of(rows), []
    calls = []
    module.policy.model.register_forward_hook(lambda *_: calls.append(1))
    for prompts in (None, PROMPTS):
        module.zero_grad()
        output = module(**batch, prompts=prompts)
        (output["logprobs"].sum() + output["values"].square().sum()).backward()
        found.append((output, torch.cat([p.grad.flatten() for p in module.parameters()])))
    assert len(calls) == (3 if len(rows[0][1]) > 1 else 2)  # once without sharing; then prompts, and responses if any
    for name, plain in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], plain, rtol=0, atol=1e-5)
    assert (found[0][1] - found[1][1]).norm() / found[0][1].norm() <= 1e-5


def test_where_sharing_is_not_possible_each_row_is_computed_whole(batch):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=2, max_window_layers=0,
    )  # fmt: skip
    policy = Qwen2ForCausalLM(config).eval()
    shared, _ = response_logprobs(policy, **batch_of(SHARED), temperature=1.0, prompts=PROMPTS)
    plain, _ = response_logprobs(policy, **batch_of(SHARED), temperature=1.0)
    assert torch.equal(shared, plain)
