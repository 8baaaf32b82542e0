"""SFT: what is learned from, the embedded default model, the checkpoint."""

import json

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.trainer.sft_trainer import SFTTrainer

from rleif.prompting import WIZARDMATH_PROMPT, render_prompt
from rleif.records import DataError, write_jsonl
from rleif.sft import SFTArguments, SFTConfig, last_checkpoint, read_examples, tokenize, train_sft
from rleif.tiny import TinyModel, fixed_parts, make_tiny, train_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}


def row(a: int, b: int) -> dict:
    steps = [f"Step 1: {a} + {b} = {a + b}", f"The answer is: {a + b}"]
    return {"instruction": f"Ann has {a} pens and buys {b}. How many?", "steps": steps}


ROWS = [row(a, b) for a in range(2, 6) for b in range(3, 7)]


def config(folder, **values):
    given = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "save_strategy": "no", "disable_tqdm": True}
    return SFTConfig(output_dir=str(folder), use_cpu=True, **given | values)


@pytest.fixture
def train_file(tmp_path):
    write_jsonl(tmp_path / "answers.jsonl", ROWS)
    return str(tmp_path / "answers.jsonl")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(
        [text for row in read_rows_as_texts() for text in row], vocab_size=400, fixed=fixed_parts(WIZARDMATH_PROMPT)
    )


def read_rows_as_texts():
    return [(render_prompt(row["instruction"]), "\n" + "\n".join(row["steps"])) for row in ROWS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    write_jsonl(folder / "answers.jsonl", ROWS)
    arguments = SFTArguments(
        train_files=[str(folder / "answers.jsonl")], eval_file=str(folder / "answers.jsonl"), **SIZES
    )
    metrics = train_sft(arguments, config(folder / "sft", learning_rate=1e-2, warmup_steps=0))
    return folder / "sft", metrics


def test_the_checkpoint_loads_in_plain_transformers_and_stops_at_eos(trained):
    folder, metrics = trained
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 1
    assert model.config.use_cache is True
    assert model.dtype == torch.float32
    assert model.num_parameters() == metrics["parameters"]
    assert (folder / "model.safetensors").is_file()


def test_metrics_are_returned_and_saved(trained):
    folder, metrics = trained
    assert metrics["rows"] == 16
    assert metrics["rows_dropped"] == metrics["rows_truncated"] == 0
    assert metrics["optimizer_steps"] == 2
    assert 0 < metrics["eval_loss"] < metrics["train_loss"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def test_training_text_is_the_wizardmath_prompt_then_a_line_break_then_the_steps(train_file):
    example = read_examples([train_file])[0]
    assert example["prompt"].endswith("How many?\n\n### Response:")
    assert example["prompt"].startswith("Below is an instruction that describes a task.")
    assert example["completion"] == "\nStep 1: 2 + 3 = 5\nThe answer is: 5"


def test_the_loss_is_on_the_response_and_its_eos_alone(trained, monkeypatch):
    folder, _ = trained
    seen = []
    train = SFTTrainer.train
    monkeypatch.setattr(SFTTrainer, "train", lambda self, **kwargs: seen.append(self) or train(self, **kwargs))
    arguments = SFTArguments(model=str(folder), train_files=[str(folder.parent / "answers.jsonl")])
    train_sft(arguments, config(folder.parent / "again", max_steps=1))
    row = seen[0].train_dataset[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, completion = read_rows_as_texts()[0]
    start = len(tokenizer(prompt)["input_ids"])
    assert row["labels"][:start] == [-100] * start
    assert row["labels"][start:] == row["input_ids"][start:]
    assert tokenizer.decode(row["labels"][start:]) == completion + "<eos>"


def test_the_loss_is_the_mean_surprise_over_response_tokens(trained):
    """The trainer's loss on its own batch, against the same by hand; other tokens in the prompt's labels would show."""
    folder, _ = trained
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=config(folder.parent / "loss"),
        train_dataset=Dataset.from_list(read_examples([str(folder.parent / "answers.jsonl")])),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    model = trainer.model.eval()
    is_response = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(batch)).item()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    surprise = -logits.log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    assert loss == pytest.approx(surprise[is_response].mean().item(), abs=1e-5)
    assert loss != pytest.approx(surprise[batch["attention_mask"][:, 1:].bool()].mean().item(), abs=1e-2)


def test_rows_are_tokenized_as_trl_does_it(trained):
    """Also where a token reaches over the border, so that the completion begins within the prompt's last one."""
    folder, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = [
        *read_examples([str(folder.parent / "answers.jsonl")]),
        {"prompt": "How many", "completion": "? The answer is: 5"},
        {"prompt": "How man", "completion": "y? 5<eos>"},
    ]
    assert len(tokenizer("How man")["input_ids"]) > 1
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=config(folder.parent / "trl"),
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
    )
    expected = trainer.train_dataset.to_list()
    for row, mine in zip(expected, tokenize(examples, tokenizer), strict=True):
        assert mine["input_ids"] == row["input_ids"]
        assert mine["completion_mask"] == [int(label != -100) for label in row["labels"]]
    assert expected[-1]["labels"][-1] == tokenizer.eos_token_id != expected[-1]["labels"][-2]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80))
def test_any_text_survives_the_tokenizer_byte_for_byte(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    # Surrogates cannot be encoded, and hypothesis does not draw them; special tokens written out are the one exception.
    assert tokenizer.decode(ids) == text


def test_every_digit_is_a_token_of_its_own(tokenizer):
    assert tokenizer.tokenize("12305") == ["1", "2", "3", "0", "5"]
    assert tokenizer.tokenize("3 + 23") == ["3", "Ġ+", "Ġ2", "3"]
    assert {token.lstrip("Ġ") for token in tokenizer.get_vocab() if set(token) & set("0123456789")} == set("0123456789")


def test_each_fixed_part_of_the_prompt_is_one_token(tokenizer):
    ids = tokenizer(render_prompt("7"))["input_ids"]
    assert len(ids) == 3
    assert tokenizer.decode(ids) == render_prompt("7")


def test_the_tokenizer_and_the_weights_depend_on_their_arguments_alone():
    texts = [text for row in read_rows_as_texts() for text in row]
    first, second = (train_tokenizer(texts, 380, fixed=("### Response:",)) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    sizes = TinyModel(vocab_size=380, hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1)
    one, same, other = (make_tiny(sizes, first, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_parameter_count_is_that_of_the_model(tokenizer):
    sizes = TinyModel(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2
    )
    assert sizes.parameter_count() == make_tiny(sizes, tokenizer, seed=0).num_parameters()


@pytest.mark.parametrize(
    ("values", "words"),
    [({"vocab_size": 200}, "need >= 260"), ({"hidden_size": 30}, "even number"), ({"num_kv_heads": 3}, "multiple")],
)
def test_sizes_that_make_no_model_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        TinyModel(**values)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"instruction": "1 + 1?", "answer": "2"}, r"neither `steps` .* `solution` .* has \['answer', 'instruction'\]"),
        ({"instruction": "1 + 1?", "steps": [2]}, "neither `steps`"),
        ({"instruction": None, "solution": "2"}, "'instruction' is None; expected a text"),
        ({"question": "1 + 1?"}, r"missing column \['instruction'\]; found \['question'\]"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named_by_file_and_line(tmp_path, bad, words):
    write_jsonl(tmp_path / "a.jsonl", [row(1, 2), bad])
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2: .*{words}"):
        read_examples([str(tmp_path / "a.jsonl")])


def test_an_empty_file_and_no_file_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match="the file has no rows"):
        read_examples([str(tmp_path / "a.jsonl")])
    with pytest.raises(DataError, match="sft needs train_files"):
        read_examples([])


def test_prompts_that_fill_max_length_are_counted_and_all_of_them_is_an_error(train_file, tmp_path):
    arguments = SFTArguments(train_files=[train_file], **SIZES)
    with pytest.raises(DataError, match="all 16 rows have prompts of max_length 4 tokens or more"):
        train_sft(arguments, config(tmp_path / "sft", max_length=4))


def test_fewer_rows_than_a_batch_train_in_one_small_batch_or_are_refused_with_both_numbers(base, tmp_path):
    write_jsonl(tmp_path / "few.jsonl", ROWS[:3])
    arguments = SFTArguments(model=base, train_files=[str(tmp_path / "few.jsonl")])
    assert train_sft(arguments, config(tmp_path / "sft", num_train_epochs=2))["optimizer_steps"] == 2
    with pytest.raises(DataError, match="3 training rows are fewer than one batch of 8, and dataloader_drop_last"):
        train_sft(arguments, config(tmp_path / "sft", dataloader_drop_last=True, max_steps=5))


def test_a_tokenizer_without_pad_or_with_pad_equal_eos_teaches_the_same(base, tiny_tokenizer, train_file, tmp_path):
    arguments, found = SFTArguments(model=base, train_files=[train_file]), []
    for pad in ("<pad>", "<eos>", None):
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token=pad, eos_token="<eos>"
        )
        tokenizer.save_pretrained(base)
        train_sft(arguments, config(tmp_path / str(pad), learning_rate=1e-2, warmup_steps=0))
        found.append(AutoModelForCausalLM.from_pretrained(tmp_path / str(pad)).lm_head.weight)
    assert not torch.equal(found[0], AutoModelForCausalLM.from_pretrained(base).lm_head.weight)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_tokenizer_without_eos_is_refused(trained, tmp_path):
    folder, _ = trained
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "m")
    arguments = SFTArguments(model=str(tmp_path / "m"), train_files=[str(folder.parent / "answers.jsonl")])
    with pytest.raises(ValueError, match="has no EOS token"):
        train_sft(arguments, config(tmp_path / "sft"))


def test_a_checkpoint_that_was_cut_off_is_not_continued_from(tmp_path):
    for number, content in ((5, "{}"), (10, "{}"), (15, '{"epo'), (20, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("muon_rate", [None, 1e-2])
def test_an_interrupted_training_continues_to_the_same_weights(train_file, tmp_path, muon_rate):
    class StoppedError(Exception):
        pass

    class StopAt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise StoppedError

    arguments = SFTArguments(train_files=[train_file], **SIZES)
    values = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1, "muon_learning_rate": muon_rate}
    train_sft(arguments, config(tmp_path / "whole", **values))
    with pytest.raises(StoppedError):
        train_sft(arguments, config(tmp_path / "cut", **values), callbacks=[StopAt()])
    train_sft(arguments, config(tmp_path / "cut", **values))
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    saved = torch.load(next((tmp_path / "whole").glob("checkpoint-*")) / "optimizer.pt", weights_only=True)
    assert ("momentum" in saved["param_groups"][-1]) == (muon_rate is not None)
