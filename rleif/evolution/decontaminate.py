"""Decontamination: problems that share an n-gram with a test set, or a program with a held-out problem, with evidence.

Exact n-grams (no Bloom filter, so no false alarm by collision). *Source:* word n-grams as in GPT-3 (arXiv 2005.14165,
appendix C, 13-grams). *Differs:* WizardMath and WizardCoder query an embedding model and a judge.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from rleif.records import Problem, Rejection

Place = tuple[str, int]  # name of the test set, 0-based row


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation is dropped and commas inside numbers are removed.

    >>> words("It costs $1,080; how much?")
    ['it', 'costs', '1080', 'how', 'much']
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold())
    return re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", text)


def ngrams(tokens: Sequence[str], n: int) -> Iterable[str]:
    """All n-grams as text; none when there are fewer than n words."""
    return (" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


class Decontaminator:
    """Finds a problem's overlap with named test sets and with held-out problems.

    tests: name -> texts. n: one size or several; the longest that hits is reported ("13gram" before "8gram").
    held_out: problems whose text, or program (`meta["program_key"]`), no other problem may share. Problems generated
    from one grammar share phrases by construction, so held-out problems are compared as a whole, not by n-gram.
    A test text shorter than n words is met only by a problem with exactly those words.

    >>> check = Decontaminator({"gsm8k_test": ["Ann has three red pens and buys two more pens today."]}, n=8)
    >>> problem = Problem(id="p", root="p", instruction="Yesterday Ann has three red pens and buys two more.")
    >>> check(problem).evidence
    "gsm8k_test row 0: 'ann has three red pens and buys two'"
    """

    def __init__(
        self,
        tests: Mapping[str, Iterable[str]] | None = None,
        *,
        n: int | Sequence[int] = 8,
        held_out: Iterable[Problem] = (),
    ) -> None:
        sizes = [n] if isinstance(n, int) else list(n)
        if not sizes or min(sizes) < 2:
            raise ValueError(f"n-gram sizes must be 2 or more, got {sizes}")
        self.sizes = sorted(set(sizes), reverse=True)
        self._grams: dict[int, dict[str, Place]] = {size: {} for size in self.sizes}
        self._texts: dict[str, Place] = {}
        self._programs: dict[str, str] = {}
        for name, texts in (tests or {}).items():
            for row, text in enumerate(texts):
                self._add_test(words(text), (name, row))
        for row, problem in enumerate(held_out):
            self._texts.setdefault(" ".join(words(problem.instruction)), ("held-out", row))
            if problem.meta.get("program_key") is not None:
                self._programs.setdefault(str(problem.meta["program_key"]), problem.id)

    def _add_test(self, tokens: list[str], place: Place) -> None:
        if tokens:
            self._texts.setdefault(" ".join(tokens), place)
        for size, grams in self._grams.items():
            for gram in ngrams(tokens, size):
                grams.setdefault(gram, place)

    def __call__(self, problem: Problem) -> Rejection | None:
        """The rejection of a contaminated problem, None for a clean one."""
        tokens = words(problem.instruction)
        for size in self.sizes:
            grams = self._grams[size]
            for gram in ngrams(tokens, size):
                if gram in grams:
                    name, row = grams[gram]
                    return _rejection(problem, f"{size}gram", f"{name} row {row}: {gram!r}")
        place = self._texts.get(" ".join(tokens))
        if place is not None:
            return _rejection(problem, "text", f"{place[0]} row {place[1]}: the same text")
        holder = self._programs.get(str(problem.meta.get("program_key")))
        if holder is not None:
            return _rejection(problem, "program", f"same program as held-out problem {holder}")
        return None


def _rejection(problem: Problem, rule: str, evidence: str) -> Rejection:
    return Rejection(problem=problem, status="contaminated", rule=rule, evidence=evidence)
