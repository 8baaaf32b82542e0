"""Where in the sampled tokens a step ends: characters of the text back to tokens, without tokenising text again."""

from bisect import bisect_left
from collections.abc import Callable, Sequence


def token_ends(ids: Sequence[int], char_ends: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int]:
    """For each character end, the index of the token that completes the text up to it.

    Tokenising the text again need not give the sampled tokens, so the text of their beginnings is measured instead; its
    length never falls as tokens are added, so a bisection finds each place.

    Raises ValueError for an end beyond the text.

    >>> token_ends([0, 1, 2], [2, 5], lambda ids: "".join(["ab", "cd", "e"][i] for i in ids))
    [0, 2]
    """
    ends = []
    for char_end in char_ends:
        index = bisect_left(range(len(ids)), char_end, key=lambda i: len(decode(ids[: i + 1])))
        if index == len(ids):
            raise ValueError(f"the {len(ids)} tokens have {len(decode(ids))} characters, none ends at {char_end}")
        ends.append(index)
    return ends
