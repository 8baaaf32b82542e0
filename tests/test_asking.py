"""Asking a chat model: over a real HTTP server, through store, budget and retries."""

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, chat_server, completion, failure, said

from rleif.records import DataError, Problem, Rejection
from rleif.teachers.asker import Asker, Retries
from rleif.teachers.budget import Budget, Ledger, Prices
from rleif.teachers.chat import (
    BudgetError,
    Question,
    Reply,
    ReplyError,
    StopAskingError,
    UnavailableError,
    usable_text,
)
from rleif.teachers.limits import CoolDown, Pace
from rleif.teachers.openai_client import MOST_CHARACTERS, OpenAIClient
from rleif.teachers.store import VERSION, Item, Spent, Store, key_of

SECRET = "sk-very-secret-0123456789"
QUICK = Retries(tries=5, first_s=0.01, most_s=0.02)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def question(text: str = "2 + 3?", **fields: Any) -> Question:
    return Question(messages=({"role": "user", "content": text},), **{"max_tokens": 50, **fields})


def echo(request: dict[str, Any]) -> Answer:
    return completion(f"you said {said(request)}")


def ask_all(
    script: Callable[[dict[str, Any]], Answer], path: Path, questions: list[Question], **options: Any
) -> tuple[list[Any], list[dict[str, Any]], Asker]:
    """The replies (or exceptions) to the questions, what the server was sent, and the asker."""
    with chat_server(script) as server, Store(path) as store:
        client_options = options.pop("client", {})

        async def run() -> tuple[list[Any], Asker]:
            client = OpenAIClient("m", base_url=server.url, **client_options)
            async with Asker(client, store, retries=QUICK, **options) as asker:
                return await asyncio.gather(*map(asker.ask, questions), return_exceptions=True), asker

        found, asker = asyncio.run(run())
        return found, server.requests, asker


# One call


def test_a_reply_comes_back_whole_and_the_request_says_all_that_was_asked(tmp_path: Path) -> None:
    asked = question("hello there", temperature=0.25, options={"top_p": 0.5})
    (reply,), requests, _ = ask_all(echo, tmp_path / "s.sqlite", [asked])
    assert (reply.text, reply.finish_reason) == ("you said hello there", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.tokens) == (10, 4, 14)
    assert requests == [
        {
            "messages": [{"role": "user", "content": "hello there"}],
            "model": "m",
            "max_tokens": 50,
            "temperature": 0.25,
            "top_p": 0.5,
        }
    ]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failure(429, "slow down", {"retry-after": "0.01"}), "rate_limit"),
        (failure(500, "oops"), "http_500"),
        (failure(503, "busy"), "http_503"),
        (Answer(body=b'{"id": "c-1", "choices": [{"ind'), "no_completion"),
        (Answer(body=b"<html>gateway</html>", headers={"content-type": "text/html"}), "no_completion"),
        (Answer(body=b""), "no_completion"),
        (Answer(body=b'{"choices": []}'), "no_completion"),
        (completion("late", delay_s=3.0), "timeout"),
    ],
)
def test_what_may_pass_is_tried_again_and_counted(tmp_path: Path, answer: Answer, kind: str) -> None:
    turns = itertools.chain([answer, answer], itertools.repeat(None))
    script = lambda request: next(turns) or echo(request)  # noqa: E731
    (reply,), requests, asker = ask_all(script, tmp_path / "s.sqlite", [question()], client={"timeout_s": 1.0})
    assert reply.text == "you said 2 + 3?"
    assert len(requests) == 3
    with Store(tmp_path / "s.sqlite") as store:
        assert (store.faults(), store.spent().calls) == ({kind: 2}, 1)
    assert asker.made == 1


def test_no_reply_after_the_last_try_is_no_reply_and_nothing_is_stored(tmp_path: Path) -> None:
    (error,), requests, _ = ask_all(lambda _: failure(500, "oops"), tmp_path / "s.sqlite", [question()])
    assert isinstance(error, UnavailableError)
    assert "no reply after 5 tries; the last: " in str(error)
    assert len(requests) == 5
    (reply,), requests, _ = ask_all(echo, tmp_path / "s.sqlite", [question()])  # the next run asks again
    assert reply.text == "you said 2 + 3?"


@pytest.mark.parametrize(
    ("status", "said_by_server", "words"),
    [
        (401, f"Incorrect API key provided: {SECRET}", "does not accept the key in OPENAI_API_KEY (401)"),
        (403, "no access", "does not let this key use model 'm' (403)"),
        (404, "no such model", "has no model 'm', or base_url is wrong (404)"),
        (429, "you exceeded your quota: insufficient_quota", "is used up (429)"),
    ],
)
def test_a_wrong_key_model_or_address_stops_at_once_without_the_key(
    tmp_path: Path, status: int, said_by_server: str, words: str
) -> None:
    (error,), requests, _ = ask_all(lambda _: failure(status, said_by_server), tmp_path / "s.sqlite", [question()])
    assert isinstance(error, StopAskingError)
    assert words in str(error)
    assert SECRET not in repr(error) + str(error.__cause__) + str(error.__context__)
    assert len(requests) == 1


def test_a_question_that_the_server_refuses_concerns_that_question_alone(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> Answer:
        return failure(400, "context length exceeded") if said(request) == "long" else echo(request)

    (error, reply), requests, _ = ask_all(script, tmp_path / "s.sqlite", [question("long"), question("short")])
    assert isinstance(error, ReplyError)
    assert "refuses the question (400): " in str(error)
    assert reply.text == "you said short"
    assert len(requests) == 2


def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        client = OpenAIClient("m", base_url="http://127.0.0.1:9/v1")
        with Store(tmp_path / "s.sqlite") as store:
            async with Asker(client, store, retries=Retries(tries=2, first_s=0.01)) as asker:
                await asker.ask(question())

    with pytest.raises(UnavailableError, match=r"no connection to http://127\.0\.0\.1:9/v1"):
        asyncio.run(run())


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTHER_KEY", "other-secret")
    with chat_server(echo) as server, Store(tmp_path / "s.sqlite") as store:

        async def run() -> None:
            async with Asker(OpenAIClient("m", base_url=server.url, key_variable="OTHER_KEY"), store) as asker:
                await asker.ask(question())

        asyncio.run(run())
        assert server.headers[0]["authorization"] == "Bearer other-secret"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(StopAskingError, match="set OPENAI_API_KEY to the key of the provider, or give base_url"):
        OpenAIClient("m")
    assert b"secret" not in (tmp_path / "s.sqlite").read_bytes()


def test_a_giant_reply_is_cut_and_counts_as_cut(tmp_path: Path) -> None:
    (reply,), _, _ = ask_all(lambda _: completion("x" * (10 << 20)), tmp_path / "s.sqlite", [question()])
    assert (len(reply.text), reply.finish_reason) == (MOST_CHARACTERS, "length")


@pytest.mark.parametrize("text", ["a\x00b", "\ud800 lone", "<|im_end|> <s>", "line\u2028separator \x07"])
def test_odd_characters_are_kept_and_the_store_holds_them(tmp_path: Path, text: str) -> None:
    ask_all(lambda _: completion(text), tmp_path / "s.sqlite", [question()])
    with Store(tmp_path / "s.sqlite") as store:
        stored = store.reply(key_of(OpenAIClient("m", base_url="http://x/v1"), question()))
    assert stored is not None
    assert stored.text == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"text": "no", "finish_reason": "length"}, "finish_reason is 'length' after 7 tokens"),
        ({"text": "", "finish_reason": "stop"}, "the reply is empty"),
        ({"text": "", "finish_reason": "stop", "refusal": "I cannot"}, "refused: I cannot"),
    ],
)
def test_a_cut_empty_or_refused_reply_is_no_data(reply: dict[str, Any], words: str) -> None:
    with pytest.raises(ReplyError, match=words):
        usable_text(Reply(**{"prompt_tokens": 1, "completion_tokens": 7, "latency_s": 0.0, **reply}))


# The store


def test_a_stored_reply_is_never_paid_again(tmp_path: Path) -> None:
    questions = [question("a"), question("b"), question("a")]
    found, requests, _ = ask_all(echo, tmp_path / "s.sqlite", questions)
    assert len(requests) == 2  # the same question at the same time is one call
    again, more, asker = ask_all(echo, tmp_path / "s.sqlite", [*questions, question("c")])
    assert [reply.text for reply in again[:3]] == [reply.text for reply in found]
    assert [said(request) for request in more] == ["c"]
    assert (asker.made, asker.reused, asker.ledger.calls) == (1, 3, 3)


@pytest.mark.parametrize(
    "other",
    [
        question("2 + 4?"),
        question(temperature=0.0),
        question(max_tokens=51),
        question(attempt=1),
        question(options={"top_p": 0.9}),
        Question(
            messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}), max_tokens=50
        ),
    ],
)
def test_all_that_shapes_a_reply_is_in_its_key(other: Question) -> None:
    client = OpenAIClient("m", base_url="http://x/v1")
    assert key_of(client, other) != key_of(client, question())
    assert key_of(client, question()) == key_of(client, question())
    assert key_of(OpenAIClient("n", base_url="http://x/v1"), question()) != key_of(client, question())
    assert key_of(OpenAIClient("m", base_url="http://x/v1", name="vllm"), question()) != key_of(client, question())


def test_a_call_whose_caller_is_cancelled_is_finished_and_stored(tmp_path: Path) -> None:
    with chat_server(lambda request: completion("slow", delay_s=0.2)) as server, Store(tmp_path / "s.sqlite") as store:

        async def run() -> None:
            asker = Asker(OpenAIClient("m", base_url=server.url), store)
            caller = asyncio.create_task(asker.ask(question()))
            await asyncio.sleep(0.1)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert store.spent().calls == 0
            await asker.aclose()

        asyncio.run(run())
        assert store.spent() == Spent(calls=1, prompt_tokens=10, completion_tokens=1)


def test_items_come_back_with_lineage_and_fate(tmp_path: Path) -> None:
    seed = Problem(id="s", instruction="1 + 1?", root="s", meta={"source": "here"})
    child = Problem(id="c", instruction="1 + 2?", root="s", parent="s", round=1, operator="deepen", direction="up")
    lost = Rejection(problem=child, status="eliminated", rule="too_short", evidence="3 words")
    with Store(tmp_path / "s.sqlite") as store:
        store.write_items([seed], [lost])
        store.write_items([seed], [lost])  # replaces
        expected = [
            Item(problem=seed, status="kept"),
            Item(problem=child, status="eliminated", rule="too_short", evidence="3 words"),
        ]
        assert list(store.items()) == expected
        assert store.children("s") == expected[1:]
        assert (store.item("c"), store.item("x")) == (expected[1], None)


def test_a_file_that_is_no_store_and_one_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    with pytest.raises(DataError, match=r"text\.sqlite is not a store"):
        Store(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "new.sqlite") as file:
        file.execute(f"PRAGMA user_version={VERSION + 1}")
    file.close()
    with pytest.raises(DataError, match=f"newer version of this library \\(store version {VERSION + 1}"):
        Store(tmp_path / "new.sqlite")


# The budget


def test_a_budget_of_calls_stops_exactly_there_and_goes_on_when_raised(tmp_path: Path) -> None:
    questions = [question(f"q{i}") for i in range(9)]
    found, requests, _ = ask_all(echo, tmp_path / "s.sqlite", questions, budget=Budget(calls=5))
    assert [type(item) for item in found] == [Reply] * 5 + [BudgetError] * 4
    assert "the budget of 5 calls is used up (5 made)" in str(found[-1])
    assert len(requests) == 5
    found, requests, _ = ask_all(echo, tmp_path / "s.sqlite", questions, budget=Budget(calls=9))
    assert [said(request) for request in requests] == ["q5", "q6", "q7", "q8"]


def test_tokens_are_never_exceeded_and_calls_wait_for_room(tmp_path: Path) -> None:
    # Each call may take 2 + 8 + 50 = 60 tokens and takes 10 + 3 in truth. Two do not fit into 100 at once, but one
    # after the other: 13, 26, 39, and 39 + 60 <= 100; then 52 + 60 > 100.
    questions = [question(f"number {i}") for i in range(6)]
    with chat_server(echo) as server:
        found, _, asker = ask_all(echo, tmp_path / "s.sqlite", questions, budget=Budget(tokens=100))
        assert server.most_in_flight <= 1
    spent = asker.ledger.prompt_tokens + asker.ledger.completion_tokens
    assert spent == sum(item.tokens for item in found if isinstance(item, Reply)) <= 100
    assert [type(item) for item in found].count(BudgetError) >= 1
    assert "tokens has no room for the next call" in str(next(e for e in found if isinstance(e, BudgetError)))


def test_money_is_counted_with_the_prices_given() -> None:
    # 1000 * 2 + 500 * 6 = 5000 per million.
    ledger = Ledger(Budget(), Spent(calls=1, prompt_tokens=1000, completion_tokens=500), Prices(prompt=2, completion=6))
    assert ledger.cost == pytest.approx(0.005)
    with pytest.raises(ValueError, match="a budget of money needs prices"):
        Ledger(Budget(cost=1.0), Spent())
    with pytest.raises(ValueError, match="budget of calls must be at least 0, got -1"):
        Budget(calls=-1)

    async def run() -> None:
        tight = Ledger(Budget(cost=0.0003), Spent(), Prices(prompt=2, completion=6))
        async with tight.reserve(question(max_tokens=40)):  # (2 + 8) * 2 + 40 * 6 = 260 per million
            pass
        with pytest.raises(BudgetError, match=r"the budget of 0\.0003 has no room for the next call"):
            async with tight.reserve(question(max_tokens=50)):
                pass

    asyncio.run(run())


# Pace


def test_a_pace_spreads_units_evenly_after_a_burst() -> None:
    now = [100.0]
    pace = Pace(60, burst_s=2.0, clock=lambda: now[0])
    assert [pace.delay(1) for _ in range(5)] == [0, 0, 0, 1, 2]
    now[0] += 10
    assert [pace.delay(2) for _ in range(3)] == [0, 0, 2]
    with pytest.raises(ValueError, match="above 0, got 0"):
        Pace(0)


def test_a_rate_limit_pauses_all_callers_for_as_long_as_the_server_says(tmp_path: Path) -> None:
    times: list[float] = []
    turns = iter([failure(429, "slow down", {"retry-after": "0.3"})])

    def script(request: dict[str, Any]) -> Answer:
        times.append(asyncio.get_running_loop().time())
        return next(turns, None) or echo(request)

    with chat_server(script) as server, Store(tmp_path / "s.sqlite") as store:

        async def run() -> None:
            async with Asker(OpenAIClient("m", base_url=server.url), store, retries=QUICK) as asker:
                first = asyncio.create_task(asker.ask(question("first")))
                while not store.faults():  # until the asker knows of the limit
                    await asyncio.sleep(0.01)
                await asyncio.gather(first, *(asker.ask(question(f"later {i}")) for i in range(5)))

        asyncio.run(run())
    assert all(later - times[0] >= 0.29 for later in times[1:])


def test_a_longer_pause_stays_when_a_shorter_one_is_asked_for() -> None:
    now = [0.0]
    pause = CoolDown(clock=lambda: now[0])
    pause.extend(5)
    pause.extend(1)
    assert pause._until == 5.0


def test_pauses_double_up_to_a_limit_with_jitter_in_their_upper_half() -> None:
    retries = Retries(first_s=1, most_s=5)
    assert [retries.pause(n, 1.0) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]
    assert retries.pause(3, 0.0) == 2
    with pytest.raises(ValueError, match="tries must be at least 1, got 0"):
        Retries(tries=0)


def test_no_more_calls_are_in_flight_than_allowed(tmp_path: Path) -> None:
    with chat_server(lambda request: completion("x", delay_s=0.02)) as server, Store(tmp_path / "s.sqlite") as store:

        async def run() -> None:
            async with Asker(OpenAIClient("m", base_url=server.url), store, concurrency=3) as asker:
                await asyncio.gather(*(asker.ask(question(f"{i}")) for i in range(12)))

        asyncio.run(run())
        assert server.most_in_flight == 3
        assert sorted(json.dumps(said(r)) for r in server.requests) == sorted(json.dumps(str(i)) for i in range(12))


def test_an_asker_may_be_closed_and_used_again_in_another_event_loop(tmp_path: Path) -> None:
    with chat_server(lambda request: completion("x", delay_s=0.02)) as server, Store(tmp_path / "s.sqlite") as store:
        asker = Asker(OpenAIClient("m", base_url=server.url), store, concurrency=2, budget=Budget(calls=10, tokens=150))

        async def run(start: int) -> None:
            async with asker:
                await asyncio.gather(*(asker.ask(question(f"{start + i}")) for i in range(4)))

        asyncio.run(run(0))
        asyncio.run(run(4))
        assert asker.made == 8


def test_an_error_that_is_not_the_servers_is_raised_as_it_is(tmp_path: Path) -> None:
    class Broken:
        name, model = "broken", "m"

        async def ask(self, question: Question) -> Reply:
            raise ZeroDivisionError

        async def aclose(self) -> None: ...

    async def run() -> None:
        with Store(tmp_path / "s.sqlite") as store:
            await Asker(Broken(), store).ask(question())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
