"""What a row of data says, whatever form it was written in. Plain values; JSON lines carry them between processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
ROLES = (SYSTEM, USER, ASSISTANT, TOOL)


@dataclass(frozen=True)
class Message:
    """One turn: who speaks (one of ROLES), and what is said."""

    role: str
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Conversation:
    """Turns of which the assistant's are to be learned; the last is one of them.

    Attributes:
        where: file and row, for messages; not part of what the example is.
    """

    messages: Messages
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """What the first user says: examples with the same belong on the same side of a split."""
        return opening_of(self.messages)


@dataclass(frozen=True)
class Text:
    """A document, all of which is learned."""

    text: str
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """The text itself."""
        return self.text


@dataclass(frozen=True)
class Preference:
    """Two answers to the same turns, of which one is better."""

    prompt: Messages
    chosen: str
    rejected: str
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """What the first user says."""
        return opening_of(self.prompt)


@dataclass(frozen=True)
class Rated:
    """An answer and how good it is; larger is better."""

    prompt: Messages
    response: str
    rating: float
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """What the first user says."""
        return opening_of(self.prompt)


@dataclass(frozen=True)
class Prompted:
    """Turns that wait for an answer."""

    prompt: Messages
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """What the first user says."""
        return opening_of(self.prompt)


@dataclass(frozen=True)
class Labelled:
    """A text, or two of them, and the name of the class that it belongs to."""

    text: str
    pair: str | None
    label: str
    where: str = field(default="", compare=False)

    @property
    def opening(self) -> str:
        """The first text."""
        return self.text


Example = Conversation | Text | Preference | Rated | Prompted | Labelled
KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Conversation, Text, Preference, Rated, Prompted, Labelled)
}


def opening_of(messages: Sequence[Message]) -> str:
    """What the first user says; where none speaks, what is said first."""
    said = [message.content for message in messages if message.role == USER]
    return said[0] if said else messages[0].content


def asked(prompt: str, system: str = "") -> Messages:
    """A question as turns."""
    return (*((Message(SYSTEM, system),) if system else ()), Message(USER, prompt))


def dialogue(prompt: str, answer: str, where: str = "", system: str = "") -> Conversation:
    """A question and its answer as a conversation."""
    return Conversation((*asked(prompt, system), Message(ASSISTANT, answer)), where)


def to_jsonl(examples: Iterable[Example]) -> str:
    """Records as JSON lines; :func:`parse_jsonl` is the inverse."""
    lines = (json.dumps({"kind": type(each).__name__.lower(), **asdict(each)}, ensure_ascii=False) for each in examples)
    return "".join(line + "\n" for line in lines)


def parse_jsonl(text: str) -> list[Any]:
    """Records from :func:`to_jsonl`."""
    return [_record(json.loads(line)) for line in text.split("\n") if line]


def _record(values: Mapping[str, Any]) -> Example:
    rest = {name: value for name, value in values.items() if name != "kind"}
    for name in ("messages", "prompt"):
        if name in rest:
            rest[name] = tuple(Message(**message) for message in rest[name])
    made: Example = KINDS[values["kind"]](**rest)
    return made
