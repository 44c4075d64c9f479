"""Conversations as the text that a model reads: by the tokenizer's chat template, by another, or simply joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from cluster.errors import UserError
from pipelines.finetune.examples.records import ASSISTANT, Message

PLAIN = "plain"
"""Turns as they are, one after the other, the assistant's with the token that ends a text: for models without chat."""


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered conversation; ``answers`` says that the assistant writes it."""

    text: str
    answers: bool


def load_template(setting: str | None) -> str | None:
    """The template that a recipe means: Jinja text, the name of a file with it, ``plain``, or None for the tokenizer's.

    Raises:
        UserError: the file cannot be read.
    """
    if setting is None or setting == PLAIN or "{" in setting:
        return setting
    try:
        return Path(setting).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}", where=f"chat_template: {setting}", next_step="name a file with a Jinja template"
        ) from None


class Renderer:
    """Renders conversations.

    Args:
        template: as :func:`load_template` gives it.
        where: the recipe's section, for messages.

    Raises:
        UserError: neither the tokenizer nor the recipe has a template, or ``plain`` lacks an ending token.
    """

    def __init__(self, tokenizer: Any, template: str | None, where: str) -> None:
        self._tokenizer, self._template, self._where = tokenizer, template, where
        self.plain = template == PLAIN
        if template is None and not tokenizer.chat_template:
            raise UserError(
                "the tokenizer has no chat template",
                where=f"{where}.chat_template",
                next_step="write one (Jinja text or a file), or `plain` for prompt and answer one after the other",
            )
        if self.plain and not tokenizer.eos_token:
            raise UserError(
                "the tokenizer has no token that ends a text, so that plain answers would have no end",
                where=f"{where}.chat_template",
                next_step="name an eos_token in its tokenizer_config.json, or write a chat template",
            )

    def prompt(self, messages: Sequence[Message], place: str = "") -> str:
        """Turns as they are put to the model when it is to answer."""
        return self._render(messages, place, asks=True)

    def segments(self, messages: Sequence[Message], place: str = "", *, last_only: bool = False) -> list[Segment]:
        """A conversation in pieces: what the model reads, and what it is to write.

        Each answer is what the template adds to its rendered prompt, with the mark that ends it; white space behind
        that belongs to the next turn.

        Args:
            last_only: all before the last answer is what the model reads, however the template shows earlier answers.

        Raises:
            UserError: the template loses an answer, writes an earlier one otherwise, or refuses the conversation.
        """
        pieces: list[Segment] = []
        done = ""
        answers = [number for number, message in enumerate(messages) if message.role == ASSISTANT]
        for number in answers[-1:] if last_only else answers:
            message = messages[number]
            asked = self.prompt(messages[:number], place)
            whole = self._render(messages[: number + 1], place, asks=False)
            if not asked.startswith(done):
                raise UserError(
                    "the chat template writes an answer otherwise once more turns follow it, so that a conversation's "
                    "answers cannot all be learned as they are asked for",
                    where=place or "tokenizer_config.json: chat_template",
                    next_step="set loss_on: last_answer (and give a row for each answer that is to be learned), or use "
                    "a template that leaves earlier turns as they are",
                )
            if not whole.startswith(asked) or not whole[len(asked) :].strip():
                raise UserError(
                    "the chat template loses the answer: a rendered conversation does not go on from its rendered "
                    "prompt",
                    where=place or "tokenizer_config.json: chat_template",
                    next_step="use a template whose generation prompt is how an assistant's message begins",
                )
            answer = whole[len(asked) :]
            answer = answer.rstrip("\n") or answer
            if message.content.strip() not in answer:
                raise UserError(
                    "the chat template loses the answer: its text is not in the rendered conversation",
                    where=place or "tokenizer_config.json: chat_template",
                    next_step="use a template that writes the content of the assistant's messages",
                )
            pieces += [Segment(asked[len(done) :], False), Segment(answer, True)]
            done = asked + answer
        return [piece for piece in pieces if piece.text]

    def _render(self, messages: Sequence[Message], place: str, *, asks: bool) -> str:
        if self.plain:
            end = self._tokenizer.eos_token
            return "".join(each.content + (end if each.role == ASSISTANT else "") for each in messages)
        plain = [{"role": each.role, "content": each.content} for each in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    plain, tokenize=False, add_generation_prompt=asks, chat_template=self._template
                )
            )
        except TemplateSyntaxError as error:
            raise UserError(
                f"is no Jinja template: {error.message}, in its line {error.lineno}",
                where="tokenizer_config.json: chat_template"
                if self._template is None
                else f"{self._where}.chat_template",
                next_step="correct the template",
            ) from None
        except TemplateError as error:
            raise UserError(
                f"the chat template refuses it: {error}",
                where=place or "chat_template",
                next_step="change the row (roles and their order), or the template",
            ) from None
