"""The prompts of PPO, read and tokenised once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rleif.records import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts with what the reward models and the grader need, one entry per row of the dataset.

    >>> PromptSet(texts=("### Instruction: 1 + 1? ...",), ids=((5, 9),), instructions=("1 + 1?",), answers=("2",))
    """

    texts: tuple[str, ...]  # what the policy continues
    ids: tuple[tuple[int, ...], ...]  # its tokens
    instructions: tuple[str, ...]  # what the reward models read
    answers: tuple[str | None, ...]  # reference answers where known

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def from_dataset(cls, dataset: Any, tokenizer: Any) -> "PromptSet":
        """From rows with `prompt` (text), and `instruction` (default: the prompt) and `answer` where present.

        Raises DataError for an empty dataset, a missing column (with the columns found), or a prompt that is not text.
        """
        rows = list(dataset)
        if not rows:
            raise DataError("the dataset has no rows; PPO needs prompts")
        texts = tuple(_text(row, number) for number, row in enumerate(rows))
        return cls(
            texts=texts,
            ids=tuple(map(tuple, encode_prompts(tokenizer, texts))),
            instructions=tuple(row.get("instruction") or text for row, text in zip(rows, texts, strict=True)),
            answers=tuple(_answer(row) for row in rows),
        )

    def require_room(self, max_new_tokens: int, limit: int | None, name: str) -> None:
        """Raises ValueError, before anything is sampled, if a prompt leaves no room for a completion.

        limit: positions of the model, None where it has no limit.
        """
        if limit is None:
            return
        longest = max(range(len(self)), key=lambda i: len(self.ids[i]))
        count = sum(len(ids) + max_new_tokens > limit for ids in self.ids)
        if count:
            raise ValueError(
                f"{name}: prompt {longest} has {len(self.ids[longest])} tokens, and with max_completion_length "
                f"{max_new_tokens} that is over the model's {limit} positions ({count} prompts are too long). Leave "
                "them out, or lower max_completion_length."
            )


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with the tokenizer's own start tokens, and without an end token that it may add: more text follows."""
    encoded = tokenizer(list(texts))["input_ids"]
    end = tokenizer.eos_token_id
    return [
        ids[:-1] if ids and ids[-1] == end and not text.endswith(tokenizer.eos_token) else ids
        for ids, text in zip(encoded, texts, strict=True)
    ]


def _text(row: Mapping[str, Any], number: int) -> str:
    if "prompt" not in row:
        raise DataError(
            f"row {number} has no column 'prompt'; found {sorted(row)}, expected prompt, instruction, answer"
        )
    if not isinstance(row["prompt"], str) or not row["prompt"]:
        raise DataError(
            f"row {number}: 'prompt' is {row['prompt']!r}; expected a text "
            "(render messages with the chat template first)"
        )
    return row["prompt"]


def _answer(row: Mapping[str, Any]) -> str | None:
    answer = row.get("answer")
    return None if answer is None or not str(answer).strip() else str(answer)
