"""How much span corruption leaves out of a block (T5, arXiv:1910.10683): the arithmetic, without the arrays."""

from __future__ import annotations

from cluster.errors import UserError

RATE = 0.15
MEAN_SPAN = 3.0


def noise_counts(length: int) -> tuple[int, int]:
    """Tokens left out of ``length >= 2`` tokens, and in how many spans."""
    noise = min(max(round(length * RATE), 1), length - 1)
    return noise, min(max(round(noise / MEAN_SPAN), 1), length - noise)


def target_length(length: int) -> int:
    """Tokens that a corrupted block's target has: what was left out, a sentinel for each span, and the end."""
    noise, spans = noise_counts(length)
    return noise + spans + 1


def check_sentinels(length: int, sentinels: int) -> None:
    """Refuse blocks with more spans to leave out than the tokenizer has sentinels for.

    Raises:
        UserError: it has too few.
    """
    spans = noise_counts(length)[1]
    if sentinels < spans:
        raise UserError(
            f"blocks of {length:,} tokens have {spans} spans to leave out, and the tokenizer has "
            f"{sentinels or 'no'} sentinels to stand for them",
            where="tokenizer.sentinels",
            next_step=f"set tokenizer.sentinels: {spans} or more, or lower tokens.sequence_length",
        )
