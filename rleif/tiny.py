"""The embedded default model: a small Llama-architecture network and a tokenizer trained on the corpus at hand.

Nothing is downloaded, and what is saved is an ordinary transformers checkpoint. torch and transformers load on first
use, because configuration code reads `TinyModel` to plan a run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rleif.prompting import WIZARDMATH_PROMPT

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TINY = "tiny"
"""The model name that stands for this module."""

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
PAD_ID, EOS_ID = 0, 1  # special tokens come first in the vocabulary
BYTE_ALPHABET_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """Sizes of the embedded model. The defaults give about 0.7 million parameters.

    >>> TinyModel(hidden_size=128, num_layers=3).parameter_count()
    738176
    """

    vocab_size: int = 768
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 4
    max_positions: int = 1024  # tokens of prompt and completion together

    def __post_init__(self) -> None:
        smallest = BYTE_ALPHABET_SIZE + 2 + len(fixed_parts(WIZARDMATH_PROMPT))
        if self.vocab_size < smallest:
            raise ValueError(f"vocab_size is {self.vocab_size}; 256 bytes and the fixed tokens need >= {smallest}")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be num_heads {self.num_heads} times an even number "
                "(rotary positions turn pairs of numbers)"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")

    def parameter_count(self) -> int:
        """Number of weights, the embedding counted once because input and output share it."""
        key_value = 2 * self.hidden_size * (self.hidden_size // self.num_heads) * self.num_kv_heads
        attention = 2 * self.hidden_size**2 + key_value
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return self.vocab_size * self.hidden_size + self.num_layers * layer + self.hidden_size


def fixed_parts(template: str) -> list[str]:
    """The text of a prompt template around its `{instruction}` field."""
    return [part for part in template.split("{instruction}") if part]


def train_tokenizer(texts: Iterable[str], vocab_size: int, fixed: Sequence[str] = ()) -> "PreTrainedTokenizerFast":
    """A byte-level BPE with single digits, trained on `texts`; any text survives encode and decode byte for byte.

    A digit joins the space before it: " 2" is one token, a sixth fewer for worked solutions.

    Args:
        texts: the corpus, in a fixed order (the result depends on it alone).
        vocab_size: number of tokens, special and fixed ones included.
        fixed: texts that become one token each. The prompt template is the same in every row, so spelling it out
            would spend a third of a small model's context and compute on a constant.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\p{Nd}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=[PAD_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=EOS_TOKEN, clean_up_tokenization_spaces=False
    )


def tiny_config(sizes: TinyModel, vocab_size: int | None = None) -> "LlamaConfig":
    """The Llama configuration of these sizes; `vocab_size` is what the trained tokenizer came to, if less."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size or sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        max_position_embeddings=sizes.max_positions,
        initializer_range=sizes.hidden_size
        ** -0.5,  # the default of 0.02 is for widths of thousands: this halves the loss
        tie_word_embeddings=True,  # at this size a second vocabulary matrix would be a seventh of all weights
        bos_token_id=None,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
    )


def make_tiny(sizes: TinyModel, tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
    """A fresh model in fp32; its weights depend on the sizes and `seed` alone."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(sizes, len(tokenizer)))
