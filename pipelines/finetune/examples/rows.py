"""From a row's columns to a record: the forms that instruction, chat and preference data are written in.

Column names are those of OpenAI's and ShareGPT's conversations, of Alpaca, and of the Hub's preference sets.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.errors import UserError
from pipelines.corpus.documents import clean_unicode
from pipelines.finetune.examples.records import (
    ASSISTANT,
    ROLES,
    SYSTEM,
    USER,
    Conversation,
    Example,
    Labelled,
    Message,
    Messages,
    Preference,
    Prompted,
    Rated,
    Text,
    asked,
    dialogue,
)

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "preferences": {
        "prompt": ("prompt", "conversations", "messages", "question", "instruction"),
        "chosen": ("chosen",),
        "rejected": ("rejected",),
    },
    "ratings": {
        "prompt": ("prompt", "conversations", "messages", "question", "instruction"),
        "response": ("response", "completion", "answer", "output"),
        "rating": ("rating", "score", "reward", "label"),
    },
    "chat": {"messages": ("messages", "conversations", "conversation")},
    "alpaca": {"instruction": ("instruction",), "output": ("output", "response"), "input": ("input",)},
    "pairs": {
        "prompt": ("prompt", "question", "instruction", "input"),
        "completion": ("completion", "response", "answer", "output"),
    },
    "text": {"text": ("text", "content")},
    "prompts": {"prompt": ("prompt", "question", "instruction")},
    "labelled": {
        "text": ("text", "sentence", "sentence1", "premise", "content", "review"),
        "pair": ("pair", "text_pair", "sentence2", "hypothesis"),
        "label": ("label", "labels", "class", "category", "sentiment"),
    },
}
"""Form -> what it needs -> names that columns have; in the order in which forms are recognised."""

OPTIONAL = {("alpaca", "input"), ("preferences", "prompt"), ("labelled", "pair")}
SPEAKERS = {"human": USER, "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT, "observation": "tool"}
SHAPES = {
    "chat": '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    "pairs": '{"prompt": "…", "completion": "…"}',
    "alpaca": '{"instruction": "…", "input": "…", "output": "…"}',
    "text": '{"text": "…"}',
    "preferences": '{"prompt": "…", "chosen": "…", "rejected": "…"}',
    "ratings": '{"prompt": "…", "response": "…", "rating": 4}',
    "prompts": '{"prompt": "…"}',
    "labelled": '{"text": "…", "label": "…"}',
}


class BadRow(Exception):
    """A row that is no example: what is wrong, and what to do."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what, next_step)
        self.what, self.next_step = what, next_step

    def as_user_error(self, place: str) -> UserError:
        """The error that names the row."""
        return UserError(self.what, where=place, next_step=self.next_step)


def detect(row: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    """The form that a row has, by its columns.

    Raises:
        BadRow: it has none of them.
    """
    for form, needs in COLUMNS.items():
        names = [_column(row, name, known, fields) for name, known in needs.items() if (form, name) not in OPTIONAL]
        if all(name is not None for name in names):
            return form
    raise BadRow(
        f"its columns ({', '.join(map(str, row)) or 'none'}) are of no known form",
        f"write rows such as {SHAPES['pairs']}, or name your columns in data.fields",
    )


def require_columns(row: Mapping[str, Any], fields: Mapping[str, str], path: str) -> None:
    """Raise UserError where the recipe names a column that the first row does not have."""
    optional = {name for _, name in OPTIONAL}
    for name, column in fields.items():
        if column not in row and name not in optional:
            near = difflib.get_close_matches(column, [str(each) for each in row], n=1)
            raise UserError(
                f"data.fields names the column {column} for {name}, and there is none"
                + (f"; did you mean {near[0]}?" if near else ""),
                where=path,
                next_step=f"its first row has {', '.join(map(str, row)) or 'no columns'}",
            )


class RowReader:
    """Reads rows of one form.

    Args:
        fields: name of the form -> the column that has it.
        system: a system message for rows that have none.
    """

    def __init__(self, form: str, fields: Mapping[str, str], system: str | None = None) -> None:
        self._form, self._fields, self._system = form, fields, system or ""
        unknown = sorted(set(fields) - set(COLUMNS[form]))
        if unknown:
            raise UserError(
                f"{unknown[0]} is nothing that rows of the form {form} have",
                where="data.fields",
                next_step=f"name columns for {', '.join(COLUMNS[form])}",
            )

    def read(self, row: Mapping[str, Any], place: str) -> Example:
        """The record that a row is.

        Raises:
            BadRow: something is missing, empty or of the wrong type.
        """
        makers: dict[str, Callable[[Mapping[str, Any], str], Example]] = {
            "chat": self._chat,
            "pairs": self._pair,
            "alpaca": self._alpaca,
            "text": self._plain,
            "preferences": self._preference,
            "ratings": self._rated,
            "prompts": self._prompted,
            "labelled": self._labelled,
        }
        return makers[self._form](row, place)

    def _chat(self, row: Mapping[str, Any], place: str) -> Example:
        messages = self._with_system(self._turns(self._value(row, "messages"), "messages"))
        if messages[-1].role != ASSISTANT:
            raise self._bad(f"the last message is the {messages[-1].role}'s: there is no answer to learn")
        return Conversation(messages, place)

    def _pair(self, row: Mapping[str, Any], place: str) -> Example:
        return dialogue(self._text(row, "prompt"), self._text(row, "completion"), place, self._system)

    def _alpaca(self, row: Mapping[str, Any], place: str) -> Example:
        given = self._value(row, "input")
        if given is not None and not isinstance(given, str):
            raise self._bad("input is not text")
        question = "\n\n".join(
            part for part in (self._text(row, "instruction"), clean_unicode(given or "")) if part.strip()
        )
        return dialogue(question, self._text(row, "output"), place, self._system)

    def _plain(self, row: Mapping[str, Any], place: str) -> Example:
        return Text(self._text(row, "text"), place)

    def _preference(self, row: Mapping[str, Any], place: str) -> Example:
        sides = {side: self._side(row, side) for side in ("chosen", "rejected")}
        given = self._value(row, "prompt")
        if given is None:
            before = sides["chosen"][:-1]
            if not before or before != sides["rejected"][:-1]:
                raise self._bad("there is no prompt, and chosen and rejected do not begin with the same messages")
            prompt = self._with_system(before)
        else:
            prompt = self._asked(given)
            for side, messages in sides.items():  # some sets repeat the prompt in both
                if len(messages) > 1 and messages[:-1] not in (prompt, self._turns_or_question(given)):
                    raise self._bad(f"{side} has other messages before its answer than the prompt")
        chosen, rejected = (sides[side][-1].content for side in ("chosen", "rejected"))
        if chosen == rejected:
            raise self._bad("chosen and rejected are the same: nothing is preferred")
        return Preference(prompt, chosen, rejected, place)

    def _rated(self, row: Mapping[str, Any], place: str) -> Example:
        rating = self._value(row, "rating")
        if not isinstance(rating, (int, float)) or not math.isfinite(rating):
            raise self._bad(f"rating is {rating!r}, not a number")
        given = self._value(row, "prompt")
        if given is None:
            raise self._bad("prompt is missing")
        return Rated(self._asked(given), self._text(row, "response"), float(rating), place)

    def _prompted(self, row: Mapping[str, Any], place: str) -> Example:
        given = self._value(row, "prompt")
        if given is None:
            raise self._bad("prompt is missing")
        return Prompted(self._asked(given), place)

    def _labelled(self, row: Mapping[str, Any], place: str) -> Example:
        pair = None if self._value(row, "pair") is None else self._text(row, "pair")
        return Labelled(self._text(row, "text"), pair, self._label(self._value(row, "label")), place)

    def _label(self, value: Any) -> str:
        """A label's name; whole numbers are names, too."""
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self._bad("label is missing or empty")
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return str(int(value))
        if not isinstance(value, str):
            raise self._bad(f"label is {value!r}, neither a name nor a whole number")
        return clean_unicode(value).strip()

    def _side(self, row: Mapping[str, Any], side: str) -> Messages:
        value = self._value(row, side)
        if value is None or value in ("", []) or (isinstance(value, str) and not value.strip()):
            raise self._bad(f"{side} is missing or empty: a preference has two sides")
        if isinstance(value, str):
            return (Message(ASSISTANT, clean_unicode(value)),)
        turns = self._turns([value] if isinstance(value, Mapping) else value, side)
        if turns[-1].role != ASSISTANT:
            raise self._bad(f"{side} does not end with the assistant's message")
        return turns

    def _asked(self, given: Any) -> Messages:
        messages = self._with_system(self._turns_or_question(given))
        if messages[-1].role == ASSISTANT:
            raise self._bad("the prompt ends with the assistant's message")
        return messages

    def _turns_or_question(self, given: Any) -> Messages:
        if isinstance(given, str):
            if not given.strip():
                raise self._bad("prompt is empty")
            return asked(clean_unicode(given))
        return self._turns(given, "prompt")

    def _turns(self, value: Any, name: str) -> Messages:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise self._bad(f"{name} is not a list of messages")
        if not value:
            raise self._bad(f"{name} is empty")
        return tuple(self._message(each, f"{name}[{number}]") for number, each in enumerate(value))

    def _message(self, value: Any, name: str) -> Message:
        if not isinstance(value, Mapping):
            raise self._bad(f"{name} is not an object with role and content")
        role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
        role = SPEAKERS.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise self._bad(f"{name} has the role {role!r}, none of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise self._bad(f"{name} has no content that is text")
        if not content.strip() and role != SYSTEM:
            raise self._bad(f"{name} is empty")
        return Message(str(role), clean_unicode(content))

    def _with_system(self, messages: Messages) -> Messages:
        if not self._system or messages[0].role == SYSTEM:
            return messages
        return (Message(SYSTEM, self._system), *messages)

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        value = self._value(row, name)
        if not isinstance(value, str) or not value.strip():
            raise self._bad(f"{name} is missing, empty or not text")
        return clean_unicode(value)

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        column = _column(row, name, COLUMNS[self._form][name], self._fields)
        return None if column is None else row[column]

    def _bad(self, what: str) -> BadRow:
        return BadRow(what, f"write rows such as {SHAPES[self._form]}, or name your columns in data.fields")


def _column(row: Mapping[str, Any], name: str, known: Sequence[str], fields: Mapping[str, str]) -> str | None:
    if name in fields:
        return fields[name] if fields[name] in row else None
    return next((each for each in known if each in row), None)
