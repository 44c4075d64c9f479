"""The tokens of a tokenizer that mean something to the pipeline: where a document begins and ends, masks, sentinels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SENTINEL = "<extra_id_{}>"
"""T5's names of the tokens that stand for a span left out (arXiv:1910.10683)."""


@dataclass(frozen=True)
class Marks:
    """Ids of marks.

    Attributes:
        bos: begins a document; None where the tokenizer has no such token.
        eos: ends a document.
        pad: fills up; the end of a document where the tokenizer has no token for it.
        mask: stands for a hidden token; None where the tokenizer has none.
        sentinels: stand for spans, the first for the first span.
        special: every special token.
    """

    bos: int | None
    eos: int
    pad: int
    mask: int | None
    sentinels: tuple[int, ...]
    special: frozenset[int]

    @property
    def around(self) -> int:
        """How many marks a document has around its text."""
        return 1 if self.bos is None else 2


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id: some tokenizers leave numbers out."""
    return int(max(tokenizer.get_vocab().values())) + 1


def read_marks(folder: Path) -> Marks:
    """The marks of a tokenizer's folder; see :func:`find_marks`."""
    from tokenizers import Tokenizer

    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    return find_marks(Tokenizer.from_file(str(folder / "tokenizer.json")), settings, str(folder))


def find_marks(tokenizer: Tokenizer, settings: Mapping[str, Any], where: str) -> Marks:
    """The marks that ``tokenizer_config.json`` names; BERT's ``cls`` and ``sep`` stand around a document, too.

    Raises:
        UserError: no token ends a document.
    """

    def of(*names: str) -> int | None:
        for name in names:
            value = settings.get(name)
            text = value["content"] if isinstance(value, dict) else value
            number = tokenizer.token_to_id(text) if text else None
            if number is not None:
                return int(number)
        return None

    eos = of("eos_token", "sep_token")
    if eos is None:
        raise UserError(
            "the tokenizer has no token that ends a document",
            where=where,
            next_step="name one as eos_token in its tokenizer_config.json",
        )
    pad = of("pad_token")
    sentinels: list[int] = []
    while (number := tokenizer.token_to_id(SENTINEL.format(len(sentinels)))) is not None:
        sentinels.append(int(number))
    special = {int(number) for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    marks = {of("bos_token", "cls_token"), eos, pad, of("mask_token"), *sentinels}
    return Marks(
        bos=of("bos_token", "cls_token"),
        eos=eos,
        pad=eos if pad is None else pad,
        mask=of("mask_token"),
        sentinels=tuple(sentinels),
        special=frozenset(special | {each for each in marks if each is not None}),
    )
