"""Replies from a store and from nowhere else: to repeat a run offline, or to try a new parser on what was paid for."""

from rleif.teachers.chat import Question, Reply, UnavailableError
from rleif.teachers.store import Store, key_of


class Recorded:
    """The client and model that a store's calls were made with, answering from the store alone.

    Raises UnavailableError for a question that was never asked.

    >>> LLMTeacher(Recorded(store, model="qwen3-32b"))
    """

    def __init__(self, store: Store, *, model: str, name: str = "openai") -> None:
        self.store = store
        self.name = name
        self.model = model

    async def ask(self, question: Question) -> Reply:
        reply = self.store.reply(key_of(self, question))
        if reply is None:
            raise UnavailableError(
                f"{self.store.path} has no reply of {self.name} {self.model!r} to this question (attempt "
                f"{question.attempt}): it was never asked, or prompt or parameters were others"
            )
        return reply

    async def aclose(self) -> None: ...
