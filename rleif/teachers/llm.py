"""A teacher that is a language model: prompts out, replies in, parsed strictly.

    verb's prompt + data between fences  ->  question  ->  reply  ->  parsed value
                                              ^                  |
                                              +-- asked again, a bounded number of times, with what was wrong

A reply that stays unusable raises ReplyError: the caller records a failure, never a default.
"""

import json
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rleif.grading import extract_answer
from rleif.records import Problem, Solution
from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking
from rleif.teachers.chat import ChatClient, Message, Question, ReplyError, usable_text
from rleif.teachers.prompts import Prompt, fence_for, render, render_template, verb_prompts

Value = TypeVar("Value")
ATTEMPTS = 1 << 20  # a verb's sample number times this, plus the number of the re-ask
NO_ANSWER = "none"  # what the answer prompt asks for where a problem has no single answer
MOST_OBJECTS = 100  # of a reply are looked at, from the end
LETTERS = string.ascii_uppercase


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class RankReply(_Strict):
    ranking: list[list[str]]
    aspects: dict[str, list[float | int]] = {}


class LabelReply(_Strict):
    labels: list[Literal[-1, 0, 1]]


class SameReply(_Strict):
    same: bool


class LLMTeacher:
    """The five verbs by prompt.

    client: usually an `Asker`, so that no question is paid for twice.
    prompts: replacements for the built-in prompts by verb (answer, rank, label, same); operators bring their own.
    system: a system message for every question, "" for none.
    temperature: of evolve and answer, which are samples; the judgements are asked at 0.
    reasks: how often an unusable reply is asked for again.
    seed: with the data, decides the fences.

    Raises ReplyError where no usable reply came, and whatever the client raises.

    >>> teacher = LLMTeacher(Asker(OpenAIClient("qwen3-32b", base_url="http://localhost:8000/v1"), store))
    """

    def __init__(
        self,
        client: ChatClient,
        *,
        prompts: Mapping[str, Prompt] | None = None,
        system: str = "",
        temperature: float = 0.7,
        max_tokens: int = 1024,
        reasks: int = 2,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        if unknown := sorted(set(prompts or {}) - set(verb_prompts())):
            raise ValueError(f"unknown prompts {', '.join(unknown)}; known: {', '.join(verb_prompts())}")
        if reasks < 0:
            raise ValueError(f"reasks must be at least 0, got {reasks}")
        self.client = client
        self.name = name or client.model
        self.prompts = {**verb_prompts(), **(prompts or {})}
        self.system = system
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.reasks = reasks
        self.seed = seed

    async def evolve(self, problem: Problem, operator: Operator, rng: random.Random) -> Draft | NoEvolution:
        """rng numbers the sample: the same operator on the same problem is another question for another rng."""
        fence = fence_for(self.seed, problem.instruction)
        prompt = render(operator, problem.instruction, fence=fence)
        sample = rng.getrandbits(30)
        text = await self._ask(
            prompt, lambda reply: evolved_text(reply, operator.reply_after), self.temperature, sample
        )
        return Draft(instruction=text)

    async def answer(self, problem: Problem, sample: int = 0) -> Solution:
        """A solution in steps; its answer is None where the teacher says that there is none."""
        prompt = self._render("answer", (problem.instruction,), instruction=problem.instruction)
        steps, answer = await self._ask(prompt, worked_steps, self.temperature, sample)
        return Solution(
            problem_id=problem.id, instruction=problem.instruction, steps=steps, answer=answer, by=self.name
        )

    async def rank(self, problems: Sequence[Problem]) -> Ranking:
        """At most 26 problems at a time."""
        if not 2 <= len(problems) <= len(LETTERS):
            raise ValueError(f"rank takes 2 to {len(LETTERS)} problems, got {len(problems)}")
        letters = LETTERS[: len(problems)]
        texts = [problem.instruction for problem in problems]
        prompt = self._render("rank", texts, instructions=texts, letters=letters, last=letters[-1], count=len(problems))
        return await self._ask(prompt, lambda reply: ranking(reply, letters), 0.0)

    async def label(self, problem: Problem, steps: Sequence[str]) -> tuple[int, ...]:
        prompt = self._render(
            "label",
            (problem.instruction, *steps),
            instruction=problem.instruction,
            steps=list(steps),
            count=len(steps),
        )
        return await self._ask(prompt, lambda reply: step_labels(reply, len(steps)), 0.0)

    async def same(self, first: Problem, second: Problem) -> bool:
        texts = (first.instruction, second.instruction)
        prompt = self._render("same", texts, first=texts[0], second=texts[1])
        return await self._ask(prompt, lambda reply: read_json(reply, SameReply).same, 0.0)

    async def aclose(self) -> None:
        """Wait for calls in flight and close connections; the teacher may be used again."""
        await self.client.aclose()

    def _render(self, verb: str, texts: Sequence[str], **values: Any) -> str:
        return render_template(self.prompts[verb].template, fence=fence_for(self.seed, *texts), **values)

    async def _ask(self, prompt: str, parse: Callable[[str], Value], temperature: float, sample: int = 0) -> Value:
        """The parsed reply. An unusable one is shown to the model with what is wrong, and asked for again."""
        start: tuple[Message, ...] = ({"role": "user", "content": prompt},)
        if self.system:
            start = ({"role": "system", "content": self.system}, *start)
        messages = start
        for number in range(self.reasks + 1):
            question = Question(
                messages=messages,
                max_tokens=self.max_tokens,
                temperature=temperature,
                attempt=sample * ATTEMPTS + number,
            )
            reply = await self.client.ask(question)
            try:
                return parse(usable_text(reply))
            except ReplyError as error:
                if number == self.reasks:
                    raise ReplyError(f"no usable reply to {number + 1} questions; the last: {error}") from error
                messages = start
                if reply.text.strip() and reply.finish_reason == "stop":
                    correction = f"That cannot be used: {error}. Reply again, in the form that was asked for."
                    messages = (
                        *start,
                        {"role": "assistant", "content": reply.text[:4000]},
                        {"role": "user", "content": correction},
                    )
        raise AssertionError("unreachable")


# Replies to values. Each raises ReplyError saying what was expected.


def evolved_text(reply: str, heading: str) -> str:
    """What follows the last heading (all of it where heading is ""), without fences, which a model may repeat."""
    text = reply
    if heading:
        spoken = next((form for form in (heading, heading.rstrip(":")) if form in reply), None)
        if spoken is None:
            raise ReplyError(f"the heading {heading!r} is missing")
        text = reply.rpartition(spoken)[2]
    lines = [line for line in text.strip().splitlines() if not re.fullmatch(r"-----[0-9a-f]{16}-----", line.strip())]
    text = "\n".join(lines).strip()
    if not text:
        raise ReplyError(f"nothing follows the heading {heading!r}")
    return text


def worked_steps(reply: str) -> tuple[tuple[str, ...], str | None]:
    """The lines of a solution, and its answer, None where it says that there is none."""
    steps = tuple(line.strip() for line in reply.splitlines() if line.strip())
    answer = extract_answer(reply, last_number=False)
    if answer is None:
        raise ReplyError("the last line must read 'The answer is: X'")
    return steps, None if answer.casefold().strip(" .") == NO_ANSWER else answer


def ranking(reply: str, letters: str) -> Ranking:
    """Tiers of indices from tiers of letters."""
    read = read_json(reply, RankReply)
    named = [letter.strip() for tier in read.ranking for letter in tier]
    if sorted(named) != sorted(letters):
        raise ReplyError(f"'ranking' must hold each of {', '.join(letters)} once, got {', '.join(named) or 'none'}")
    tiers = tuple(tuple(letters.index(letter.strip()) for letter in tier) for tier in read.ranking if tier)
    for name, values in read.aspects.items():
        if len(values) != len(letters):
            raise ReplyError(f"aspect {name!r} must have {len(letters)} numbers, got {len(values)}")
    return Ranking(tiers=tiers, aspects={name: [float(v) for v in values] for name, values in read.aspects.items()})


def step_labels(reply: str, count: int) -> tuple[int, ...]:
    labels = read_json(reply, LabelReply).labels
    if len(labels) != count:
        raise ReplyError(f"'labels' must have one label for each of the {count} steps, got {len(labels)}")
    return tuple(labels)


def read_json(reply: str, kind: type[BaseModel]) -> Any:
    """The last JSON object of the reply that is of this kind. Text around it, such as reasoning, is passed over."""
    error = "it holds no JSON object"
    starts = [match.start() for match in re.finditer("{", reply)][-MOST_OBJECTS:]
    for start in reversed(starts):  # an object inside another is of another kind, so the search goes on outwards
        try:
            value, _ = json.JSONDecoder().raw_decode(reply[start:])
            return kind.model_validate(value)
        except (json.JSONDecodeError, RecursionError) as problem:
            error = f"its JSON cannot be read: {problem}"
        except ValidationError as problem:
            first = problem.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the object"
            error = f"its JSON is of another form: {place}: {first['msg']}"
    raise ReplyError(error)
