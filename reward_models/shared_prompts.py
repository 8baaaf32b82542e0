"""Several solutions of one problem in one row, which reads the problem once.

Solutions of the same problem begin with the same tokens. Here what they share is computed once and serves all of them:
each solution is a branch behind it, with the positions it would have alone, and sees nothing of the other branches. The
scores, and the sum of their gradients, are those of separate rows.
"""

import inspect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SHARED, PADDING = 0, -1  # branches are numbered from 1


def share_prompts(rows: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Rows with the same `prompt` joined, at most so many at a time. Order: by the first appearance of the prompt."""
    groups: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["prompt"]].append(row)
    return [join(group[i : i + most]) for group in groups.values() for i in range(0, len(group), most)]


def join(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of all: the tokens that they begin with, then what is left of each.

    >>> first = {"input_ids": [5, 6, 7], "positions": [2], "labels": [1.0]}
    >>> joined = join([first, {"input_ids": [5, 6, 8, 9], "positions": [2, 3], "labels": [1.0, 0.0]}])
    >>> joined["input_ids"], joined["position_ids"], joined["branch"]
    ([5, 6, 7, 8, 9], [0, 1, 2, 2, 3], [0, 0, 1, 2, 2])
    >>> joined["positions"], joined["labels"]
    ([2, 3, 4], [1.0, 1.0, 0.0])
    """
    shared = common_length([row["input_ids"] for row in rows])
    ids, places = list(rows[0]["input_ids"][:shared]), list(range(shared))
    branch, positions, labels = [SHARED] * shared, [], []
    next_tokens: Counter[tuple[int, int]] = Counter()
    for number, row in enumerate(rows, start=1):
        moved = len(ids) - shared
        positions += [place if place < shared else place + moved for place in row["positions"]]
        labels += row["labels"]
        for place, token in zip(row.get("next_from", ()), row.get("next_to", ()), strict=True):
            next_tokens[place if place < shared else place + moved, token] += 1
        own = row["input_ids"][shared:]
        ids += own
        places += range(shared, shared + len(own))
        branch += [number] * len(own)
    joined = {
        "input_ids": ids,
        "position_ids": places,
        "branch": branch,
        "positions": positions,
        "labels": labels,
        "length": len(ids),
    }
    if "next_from" in rows[0]:  # what several rows predict at the same place counts as often, and is computed once
        joined["next_from"] = [place for place, _ in next_tokens]
        joined["next_to"] = [token for _, token in next_tokens]
        joined["next_weight"] = list(map(float, next_tokens.values()))
    return joined


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    for place, tokens in enumerate(zip(*sequences, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences))


def branch_mask(branches: Int[Tensor, "rows tokens"]) -> Bool[Tensor, "rows 1 tokens tokens"]:
    """True where a token (second to last axis) sees another (last axis): itself, and what stands before it in the
    shared part or in its own branch."""
    is_before = torch.ones(branches.shape[1:] * 2, dtype=torch.bool, device=branches.device).tril()
    is_own = branches[:, :, None] == branches[:, None, :]
    is_shared = (branches == SHARED)[:, None, :]
    return (is_before & (is_own | is_shared)).unsqueeze(1)


def mask_for(model: PreTrainedModel, is_seen: Bool[Tensor, "rows 1 tokens tokens"]) -> Tensor:
    """The mask as the model's attention takes it: sdpa a bool, eager what is added to the logits."""
    if model.config._attn_implementation == "sdpa":
        return is_seen
    return torch.zeros_like(is_seen, dtype=model.dtype).masked_fill(~is_seen, torch.finfo(model.dtype).min)


def require_branches(model: PreTrainedModel) -> None:
    """Raises ValueError for a model that cannot keep branches apart."""
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"solutions_per_row above 1 needs attn_implementation sdpa or eager, but the model has {attention!r}: set "
            'model_init_kwargs to {"attn_implementation": "sdpa"}, or solutions_per_row to 1'
        )
    takes_positions = "position_ids" in inspect.signature(type(model.base_model).forward).parameters
    if not takes_positions or any(
        type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers
    ):
        raise ValueError(
            f"{type(model.base_model).__name__} has sliding windows, recurrent layers or no position_ids, so the "
            "solutions of a row could not be kept apart: set solutions_per_row to 1"
        )
