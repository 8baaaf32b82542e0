"""RLEIFTrainer and input that cannot work, or only just: named early, and nothing computed is lost."""

import copy

import pytest
import torch
from ppo_world import (
    ScriptedPRM,
    letter_model,
    letter_tokenizer,
    logged,
    make_config,
    make_trainer,
    prompts,
    weights,
)

from rleif import RLEIFTrainer
from rleif.records import Completion, DataError

pytestmark = pytest.mark.usefixtures("quick_collections")


def test_a_dataset_smaller_than_an_iteration_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="the dataset has 3 prompts, but one iteration takes 4"):
        make_trainer(tmp_path, train_dataset=prompts(3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the dataset has no rows"),
        (
            [{"question": "a"}],
            r"row 0 has no column 'prompt'; found \['question'\], expected prompt, instruction, answer",
        ),
        ([{"prompt": "a"}, {"prompt": ["a"]}], r"row 1: 'prompt' is \['a'\]; expected a text"),
    ],
)
def test_data_that_holds_no_prompts_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        make_trainer(tmp_path, train_dataset=rows)


def test_a_prompt_longer_than_the_model_is_refused_before_anything_is_sampled(tmp_path):
    rows = [*prompts(), {"prompt": "a " * 27}]
    with pytest.raises(
        ValueError, match=r"train_dataset: prompt 8 has 27 tokens, .*max_completion_length 6 .* 32 positions"
    ):
        make_trainer(tmp_path, train_dataset=rows)
    with pytest.raises(ValueError, match=r"eval_dataset: prompt 8"):
        make_trainer(tmp_path, eval_dataset=rows)


@pytest.mark.parametrize(("pad", "side"), [(None, "right"), ("<eos>", "right"), ("<pad>", "left"), ("<eos>", "left")])
def test_a_tokenizer_without_pad_or_with_pad_equal_eos_trains_as_any_other(tmp_path, pad, side):
    runs, other = [], letter_tokenizer(pad)
    other.padding_side = side
    for tokenizer in (letter_tokenizer(), other):
        model = letter_model()
        trainer = make_trainer(tmp_path, model, processing_class=tokenizer)
        trainer.train()
        runs.append(weights(model))
        assert 0.0 < logged(trainer, "completions/eos_rate")[0] < 1.0
    assert torch.equal(runs[0], runs[1])


def test_the_end_token_is_trained(tmp_path):
    """Ending at once is all that is rewarded; it can only be learnt if the EOS counts as a token of the response."""
    settings = {"prm": ScriptedPRM(lambda text: float(text == "")), "num_iterations": 12, "kl_coef": 0.0}
    trainer = make_trainer(tmp_path, rollout_batch_size=32, **settings)
    trainer.train()
    assert logged(trainer, "completions/mean_length")[-1] < 1.5


def test_completions_that_all_reach_the_limit_train(tmp_path):
    model = letter_model()
    model.generation_config.eos_token_id = 9  # "h", which is made impossible
    with torch.no_grad():
        model.lm_head.weight[9] = 0.0
        model.lm_head.weight[:9].copy_(model.lm_head.weight[:9].abs())
    engine = AlwaysFull()
    trainer = make_trainer(tmp_path, model, engine=engine)
    trainer.train()
    assert logged(trainer, "completions/eos_rate") == [0.0, 0.0]
    assert weights(trainer.model).isfinite().all()


class AlwaysFull:
    """An engine that never ends a completion before the limit."""

    def __call__(self, prompts, sampling, keys):
        made = [
            [self.full(prompt, (key + k) % 8, sampling.max_new_tokens) for k in range(sampling.num_generations)]
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        return made

    def full(self, prompt, letter, length):
        ids = tuple(2 + (letter + i) % 8 for i in range(length))
        return Completion(
            prompt_ids=tuple(prompt), completion_ids=ids, logprobs=(-2.0,) * length, finish_reason="length", text="c"
        )


def test_without_prompts_or_with_automatic_batch_sizes_the_trainer_says_no(tmp_path):
    with pytest.raises(ValueError, match="train_dataset is None"):
        RLEIFTrainer(letter_model(), args=make_config(tmp_path))
    with pytest.raises(ValueError, match="auto_find_batch_size"):
        make_trainer(tmp_path, auto_find_batch_size=True)
    with pytest.raises(ValueError, match="processing_class is None"):
        make_trainer(tmp_path, processing_class=None)


def test_the_given_config_is_not_changed(tmp_path):
    args = make_config(tmp_path)
    before = copy.deepcopy(args.to_dict())
    RLEIFTrainer(letter_model(), args=args, train_dataset=prompts(), processing_class=letter_tokenizer())
    assert args.to_dict() == before
