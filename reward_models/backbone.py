"""The network of both reward models: a transformers classifier whose first label is the score, read at positions."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed as deepspeed_integration
from transformers.utils import logging as transformers_logging

AUTO_CLASSES = {"irm": AutoModelForSequenceClassification, "prm": AutoModelForTokenClassification}
# GPT-2 and encoders name the token head `classifier`. A sequence `classifier` sits behind a pooler: not read here.
HEAD_NAMES = {"irm": ("score",), "prm": ("score", "classifier")}
QUALITY = "quality"  # the first label of a head that has further ones

logger = logging.getLogger(__name__)


class ReadsPositions(PreTrainedModel):
    """Mixed into a transformers classifier: with `positions`, the head runs only there, in its own precision.

    transformers finds the last token of a sequence as the last id that is not the pad id, which is wrong for pad == eos
    and impossible without a pad token; and it runs the head on every token, under autocast in low precision.
    """

    head_name: str

    def forward(
        self,
        *args: Any,
        positions: Tensor | None = None,
        state_positions: Tensor | None = None,
        all_labels: bool = False,
        **kwargs: Any,
    ) -> Any:
        """positions: Int[batch, reads], token indices. Returns logits Float[batch, reads], float32 or wider: those of
        the first label. With all_labels, Float[batch, reads, labels].

        With state_positions, Int[batch, places], a pair: the logits, and the last hidden states there
        Float[batch, places, hidden].
        """
        if positions is None:
            return super().forward(*args, **kwargs)
        inputs = {name: value for name, value in kwargs.items() if value is not None}
        hidden = self.base_model(*args, **inputs).last_hidden_state
        rows = torch.arange(hidden.shape[0], device=hidden.device).unsqueeze(1)
        head = getattr(self, self.head_name)
        # ZeRO and FSDP may hold the head in their own precision: the states follow the head, not the reverse.
        precision = next(head.parameters()).dtype
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden[rows, positions].to(precision))
        logits = logits if all_labels else logits[..., 0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if state_positions is None else (logits, hidden[rows, state_positions])


def load_network(
    path: str, kind: str, *, trained: bool, dtype: torch.dtype, aspects: Sequence[str] = (), **options: Any
) -> PreTrainedModel:
    """A classifier that can be read at positions, from any causal-LM or classifier checkpoint; the first label is the
    score.

    aspects: names of further labels; a trained model says itself which it has. A new head is zero, so the first score
    is sigmoid(0) = 0.5; from a head with other labels those of the same name are taken over. With `trained` every
    weight must be in the checkpoint, and none may be left over: a head drawn at random, or a bias silently dropped,
    would score without a word.
    """
    wanted = (QUALITY, *aspects)
    names = label_names(path) or wanted
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    with _quiet_load_report():
        model, report = AUTO_CLASSES[kind].from_pretrained(
            path, dtype=dtype, output_loading_info=True, **options, **(labels if len(names) > 1 else {"num_labels": 1})
        )
    head_name = next((name for name in HEAD_NAMES[kind] if isinstance(getattr(model, name, None), nn.Linear)), None)
    if head_name is None:
        raise ValueError(f"{path}: {type(model).__name__} has no linear head named {' or '.join(HEAD_NAMES[kind])}")
    missing = set(report["missing_keys"])
    is_new_head = any(name.startswith(f"{head_name}.") for name in missing) or bool(report["mismatched_keys"])
    others = sorted(name for name in missing if not name.startswith(f"{head_name}."))
    if others or (trained and (is_new_head or report["unexpected_keys"])):
        raise ValueError(
            f"{path} is not a whole {'reward model' if trained else 'model'}: missing weights {sorted(missing)[:5]}, "
            f"unexpected weights {sorted(report['unexpected_keys'])[:5]}"
        )
    if not trained and names != wanted:
        _relabel(model, head_name, names, wanted)
    head = getattr(model, head_name).float() if dtype.itemsize < 4 else getattr(model, head_name)
    if is_new_head:
        with _gathered(list(head.parameters())) as weights:
            for weight in weights:
                nn.init.zeros_(weight)
    model.config.use_cache = False
    # The same name, so that the saved config names the transformers class.
    model.__class__ = type(type(model).__name__, (ReadsPositions, type(model)), {"head_name": head_name})
    return model


def label_names(path: str) -> tuple[str, ...]:
    """The labels of a classifier's checkpoint, none for one without a head.

    Only ours have several, the first of them the score; a head of somebody else's labels is taken for one label.
    """
    config = AutoConfig.from_pretrained(path)
    if not any("Classification" in name for name in config.architectures or ()):
        return ()
    names = names_in_order(config)
    return names if names[:1] == (QUALITY,) else (QUALITY,)


def _relabel(model: Any, head_name: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Give the model a head for the wanted labels, in place: rows of known names are kept, the others are zero."""
    if deepspeed_integration.is_deepspeed_zero3_enabled():
        raise ValueError(
            f"the checkpoint has the labels {', '.join(names)}, not {', '.join(wanted)}, and ZeRO-3 divides its head: "
            "start from a causal language model, or use ZeRO-2"
        )
    old = getattr(model, head_name)
    new = nn.Linear(old.in_features, len(wanted), bias=old.bias is not None, device=old.weight.device)
    new = new.to(old.weight.dtype)
    with torch.no_grad():
        for fresh, known in zip(new.parameters(), old.parameters(), strict=True):
            nn.init.zeros_(fresh)
            for place, name in enumerate(wanted):
                if name in names:
                    fresh[place] = known[names.index(name)]
    setattr(model, head_name, new)
    model.num_labels = len(wanted)
    model.config.id2label = dict(enumerate(wanted)) if len(wanted) > 1 else {0: "LABEL_0"}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}


def names_in_order(config: Any) -> tuple[str, ...]:
    """The names of a classifier's labels."""
    return tuple(config.id2label[index] for index in sorted(config.id2label or {}))


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(path)


def agree_on_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the config's pad token safe for plain transformers, and check that every token id has an embedding.

    Where pad is eos, transformers would pool before the final EOS; without a pad id it pools at the last place and
    refuses batches, which is right or loud.
    """
    pad = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = None if pad == tokenizer.eos_token_id else pad
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model embeds {rows}: they do not belong together. "
            f"Give the tokenizer of the model's own checkpoint"
        )


def usable_length(model: PreTrainedModel, max_length: int | None) -> int:
    """The number of tokens to read: `max_length`, but never more than the model has positions for."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    bounds = [bound for bound in (max_length, limit) if bound is not None]
    if not bounds:
        raise ValueError("the model states no max_position_embeddings: give max_length")
    if min(bounds) < 2:
        raise ValueError(f"max_length must be at least 2 tokens, got {min(bounds)}")
    return min(bounds)


def pad_batch(sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Right-padded `input_ids` and `attention_mask` [batch, tokens] and `positions` [batch, reads].

    Padding is on the right whatever the tokenizer says, so positions stay what tokenisation said. The mask comes from
    lengths, so the pad id may be any id. A row with fewer reads repeats position 0; callers know how many are real.
    """
    width, reads = max(map(len, sequences)), max(map(len, positions))
    return {
        "input_ids": torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]),
        "positions": torch.tensor([[*places, *[0] * (reads - len(places))] for places in positions]),
    }


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any valid id: padded places are masked by length."""
    ids: list[Any] = [tokenizer.pad_token_id, tokenizer.eos_token_id]
    return next((token for token in ids if token is not None), 0)


@torch.inference_mode()
def score_rows(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    pad_id: int,
    batch_size: int,
    all_labels: bool = False,
) -> list[list[float]]:
    """The sigmoid (in double precision: float32 reaches 1.0 at logit 17) of every row's logits, in the order of rows:
    one of each position, or with all_labels those of the first position.

    Rows run in order of length, so a batch is padded little; a row without positions is not run.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    scores: list[list[float]] = [[] for _ in sequences]
    order = sorted((i for i in range(len(sequences)) if positions[i]), key=lambda i: len(sequences[i]), reverse=True)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = pad_batch([sequences[i] for i in chosen], [positions[i] for i in chosen], pad_id)
        logits = model(**{name: value.to(model.device) for name, value in batch.items()}, all_labels=all_labels)
        shares = torch.sigmoid(logits.cpu().double())
        for i, row in zip(chosen, (shares[:, 0] if all_labels else shares).tolist(), strict=True):
            scores[i] = row if all_labels else row[: len(positions[i])]
    return scores


def inference_setup(
    device: str | torch.device | None, dtype: torch.dtype | str | None
) -> tuple[torch.device, torch.dtype]:
    """CUDA and bfloat16 where there is a GPU, else CPU and float32; an explicit choice wins."""
    chosen = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError("dtype must be a torch dtype or its name, such as 'float32' or 'bfloat16'")
    return chosen, dtype or (torch.bfloat16 if chosen.type == "cuda" else torch.float32)


def load_for_scoring(path: str, kind: str, device: Any, dtype: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer of a saved reward model: on its device, frozen, in eval mode."""
    if (Path(path) / "adapter_config.json").is_file() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path} holds an adapter, not a whole model: merge it into its base (merge_and_unload) first")
    place, precision = inference_setup(device, dtype)
    architectures = AutoConfig.from_pretrained(path).architectures or []
    with loaded_whole():
        model = load_network(path, kind, trained=True, dtype=precision)
    if type(model).__name__ not in architectures:
        raise ValueError(
            f"{path} holds {architectures}, not {type(model).__name__}: it is not a model of kind {kind!r}"
        )
    model.to(place)  # pyright: ignore[reportArgumentType]
    return model.eval().requires_grad_(False), load_tokenizer(path)


@contextmanager
def _quiet_load_report() -> Iterator[None]:
    """transformers tells at length that the head is new; `load_network` checks the same report and knows."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Within it, `from_pretrained` gives every process all weights.

    Under ZeRO-3 each would else get a slice, which only the model that DeepSpeed trains puts together again: a frozen
    model would see empty weights.
    """
    before = deepspeed_integration._hf_deepspeed_config_weak_ref
    deepspeed_integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed_integration._hf_deepspeed_config_weak_ref = before


@contextmanager
def _gathered(weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The weights whole: under ZeRO-3 each process holds a slice, and writing to it outside would change nothing."""
    if not deepspeed_integration.is_deepspeed_zero3_enabled():
        yield weights
        return
    import deepspeed  # pyright: ignore[reportMissingImports]

    with deepspeed.zero.GatheredParameters(weights, modifier_rank=0):
        yield weights
