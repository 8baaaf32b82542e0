"""Fixtures for all tests: tiny models and a tokenizer made on the spot, and the optional folder of public data."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

install_import_hook(["rleif.losses", "rleif.rewards"], "beartype.beartype")  # before anything imports them
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
CORPUS = [
    "Ann has 12 pens and buys 30 more. How many pens does she have now?",
    "Step 1: Ann has 12 + 30 = 42 pens.\nStep 2: Half of them is 42 / 2 = 21.\nThe answer is: 21",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\n### Response:",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits, `<pad>` and `<eos>` distinct."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh two-layer Llama with seeded weights, fp32, in eval mode."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of public data sets; the test is skipped, with the reason, where it is absent."""
    places = [os.environ.get("RLEIF_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "gsm8k").is_dir():
            return Path(place)
    pytest.skip("public data sets not found: set RLEIF_DATA to a folder that holds gsm8k/test.jsonl")


@pytest.fixture
def base(tmp_path: Path, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    """A causal-LM checkpoint to start from."""
    tiny_model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """Each Trainer.train starts with a full garbage collection; what was loaded before need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
