"""A real HTTP server that speaks the chat completions protocol; what it says is a function of the request."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Headers = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes over the wire. `body` is sent as it is."""

    status: int = 200
    body: bytes = b""
    headers: Headers = field(default_factory=dict)
    delay_s: float = 0.0


def completion(
    text: str | None, *, finish_reason: str = "stop", refusal: str | None = None, delay_s: float = 0.0
) -> Answer:
    """A chat completion that says `text`, with one token of usage per word."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    body = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 0,
        "model": "test",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": len((text or "").split()), "total_tokens": 0},
    }
    return Answer(body=json.dumps(body).encode(), delay_s=delay_s)


def failure(status: int, message: str, headers: Headers | None = None) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "error", "code": None}}).encode()
    return Answer(status=status, body=body, headers=headers or {})


class ChatServer:
    """Answers with `script(request body)`; keeps the bodies and headers it was sent."""

    def __init__(self, script: Callable[[dict[str, Any]], Answer]) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Headers] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self.url = ""
        self.listening: asyncio.Server | None = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
                }
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
                self.requests.append(body)
                self.headers.append(headers)
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                answer = self.script(body)
                await asyncio.sleep(answer.delay_s)
                self._in_flight -= 1
                fields = {"content-type": "application/json", **answer.headers, "content-length": str(len(answer.body))}
                text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {answer.status} status\r\n{text}\r\n".encode() + answer.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def chat_server(script: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    """The server on a free port, in a thread with an event loop of its own."""
    server, loop, started = ChatServer(script), asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        server.listening = listening = await asyncio.start_server(server._serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        started.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:

        async def stop() -> None:
            assert server.listening is not None
            server.listening.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def said(request: dict[str, Any]) -> str:
    """The last message of a request."""
    return request["messages"][-1]["content"]
