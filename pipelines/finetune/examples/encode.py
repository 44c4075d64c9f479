"""Examples as tokens, each with whether it carries loss, and what to do about those that are too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.errors import UserError
from pipelines.finetune.examples.records import ASSISTANT, SYSTEM, Conversation, Message, Text
from pipelines.finetune.examples.template import Renderer, Segment

TooLong = Literal["refuse", "drop", "left", "right"]
Learned = Literal["answers", "last_answer", "everything"]
LINE_END = "\n"
"""A text whose token joins no other, mostly."""

ROUNDS = 8
"""Times a question is shortened: a cut text may have other tokens than the text had there."""


@dataclass(frozen=True)
class Encoded:
    """An example's tokens.

    Attributes:
        learned: for each token whether it carries loss; the first never does, nothing predicts it.
        where: file and row.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    where: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Tokens that carry loss."""
        return sum(self.learned[1:])


@dataclass
class Encoding:
    """What came of many examples: their tokens, and places of those left out or shortened."""

    encoded: list[Encoded]
    examples: list[Any]
    dropped: list[str]
    shortened: int

    @property
    def is_text(self) -> bool:
        """Whether the examples are plain texts."""
        return bool(self.examples) and isinstance(self.examples[0], Text)


class Encoder:
    """Turns examples into tokens.

    Args:
        length: most tokens of an example.
        too_long: refuse stops at the first longer one, drop leaves them out; left and right shorten what is asked,
            from its beginning or its end, never an answer.
        learns: which of the assistant's turns carry loss.
        where: the recipe's section, for messages.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        length: int,
        too_long: TooLong,
        where: str,
        learns: Learned = "answers",
    ) -> None:
        self._tokenizer, self._template, self._where = tokenizer, template, where
        self.length, self.too_long, self._learns = length, too_long, learns
        self._renderer: Renderer | None = None
        first = tokenizer("a").input_ids[:1]
        self._begin = first if first == [tokenizer.bos_token_id] else []

    @property
    def renderer(self) -> Renderer:
        """The chat template at work; made when the first conversation needs it."""
        if self._renderer is None:
            self._renderer = Renderer(self._tokenizer, self._template, self._where)
        return self._renderer

    def encode_all(self, examples: Iterable[Conversation | Text]) -> Encoding:
        """Tokens of many examples, in their order.

        Raises:
            UserError: as :meth:`encode` has it.
        """
        result = Encoding([], [], [], 0)
        for example in examples:
            encoded = self.encode(example)
            if encoded is None:
                result.dropped.append(example.where)
                continue
            result.encoded.append(encoded[0])
            result.examples.append(example)
            result.shortened += encoded[1]
        return result

    def encode(self, example: Conversation | Text) -> tuple[Encoded, bool] | None:
        """An example's tokens and whether it was shortened; None where it is too long and dropped.

        Raises:
            UserError: naming the row: it is too long, or the template loses its answer.
        """
        tokens = self.whole(example)
        if len(tokens) <= self.length:
            return tokens, False
        if self.too_long == "drop":
            return None
        if self.too_long == "refuse":
            raise self._error(tokens, example.where)
        if isinstance(example, Text):
            cut = slice(-self.length, None) if self.too_long == "left" else slice(self.length)
            return Encoded(tokens.ids[cut], tokens.learned[cut], tokens.where), True
        _, tokens = self.shorten(example, self.length)
        if len(tokens) > self.length:
            raise self._error(tokens, example.where, "even without what is asked")
        return tokens, True

    def whole(self, example: Conversation | Text) -> Encoded:
        """All of an example's tokens, however many."""
        if isinstance(example, Text):
            ids = [*self._begin, *self._tokenizer(example.text, add_special_tokens=False).input_ids]
            ids += [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
            learned = [False] * len(self._begin) + [True] * (len(ids) - len(self._begin))
            return self._with_loss(ids, learned, example.where)
        last_only = self._learns == "last_answer"
        pieces = self.renderer.segments(example.messages, example.where, last_only=last_only)
        return self.of_segments(pieces, example.where)

    def of_segments(self, segments: Sequence[Segment], place: str) -> Encoded:
        """Tokens of rendered pieces. A prompt's are those that it has when the model is asked.

        An answer's are the ones that the whole text has there, unless a token spans the border: then it is encoded
        apart, as the model would have to write it.
        """
        ids: list[int] = list(self._begin) if self.renderer.plain else []
        learned: list[bool] = [False] * len(ids)
        text, known = "", 0
        for piece in segments:
            whole = self._plain_ids(text + piece.text)
            before = ids[len(ids) - known :] if known else []
            added = whole[known:] if whole[:known] == before else self._apart(piece.text)
            ids += added
            learned += [piece.answers or self._learns == "everything"] * len(added)
            text, known = text + piece.text, known + len(added)
        return self._with_loss(ids, learned, place)

    @staticmethod
    def _with_loss(ids: list[int], learned: list[bool], place: str) -> Encoded:
        if not any(learned[1:]):
            raise UserError("no token of it carries loss", where=place, next_step="give it a longer text or answer")
        return Encoded(tuple(ids), tuple(learned), place)

    def _plain_ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return found

    def _apart(self, text: str) -> list[int]:
        """Tokens of a text that goes on from another: some tokenizers put a space before whatever they begin with."""
        before = self._plain_ids(LINE_END)
        both = self._plain_ids(LINE_END + text)
        return both[len(before) :] if both[: len(before)] == before else self._plain_ids(text)

    def shorten(self, example: Conversation, length: int) -> tuple[Conversation, Encoded]:
        """A conversation with what is asked cut, the oldest question first, until it has at most ``length`` tokens.

        Where the answers alone do not fit it stays longer, and nothing is asked.
        """
        messages = list(example.messages)
        tokens = self.whole(example)
        order = [number for number, each in enumerate(messages) if each.role not in (ASSISTANT, SYSTEM)]
        order += [number for number, each in enumerate(messages) if each.role == SYSTEM]
        for number in order:
            for _ in range(ROUNDS):
                excess = len(tokens) - length
                if excess <= 0:
                    return example, tokens
                kept = self._cut(messages[number].content, excess)
                messages[number] = Message(messages[number].role, kept)
                example = replace(example, messages=tuple(messages))
                tokens = self.whole(example)
                if not kept:
                    break
        return example, tokens

    def _cut(self, text: str, count: int) -> str:
        ids = self._plain_ids(text)
        if count >= len(ids):
            return ""
        kept = ids[count:] if self.too_long == "left" else ids[: len(ids) - count]
        return str(self._tokenizer.decode(kept))

    def _error(self, tokens: Encoded, place: str, how: str = "") -> UserError:
        answers = sum(tokens.learned)
        advice = "shorten the row, or set too_long: drop, or left or right to shorten what is asked"
        if answers >= self.length:
            advice = "cut the answer into several rows, or set too_long: drop to leave such rows out"
        return UserError(
            f"{len(tokens):,} tokens{f' {how}' if how else ''}, {answers:,} of them answers, are more than the "
            f"{self.length:,} that fit",
            where=place or self._where,
            next_step=f"{advice}; or raise {self._where}.sequence_length where the model's context allows it",
        )
