"""The rows that a method learns from: which forms it takes, and what it makes of rated answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import UserError
from pipelines.align.config import AlignConfig, nothing_to_learn_from
from pipelines.finetune.examples.divide import choose, split, subset
from pipelines.finetune.examples.records import Messages, Preference, Rated

FOR_PAIRS = ("preferences", "ratings")
FOR_PROMPTS = ("prompts", "preferences", "ratings", "pairs", "chat", "alpaca")


@dataclass
class ReadRecords:
    """Different records in the order of a stable hash.

    Attributes:
        bad: places of rows that were skipped, each with its reason.
        alike: of rated answers, prompts that gave no pair: they have one answer, or all are rated alike.
    """

    records: list[Any]
    bad: list[str]
    alike: int = 0


@dataclass
class LoadedRecords:
    """Records by what they are for; ``bad`` and ``alike`` as :class:`ReadRecords` has them."""

    train: list[Any]
    validation: list[Any]
    bad: list[str] = field(default_factory=list)
    alike: int = 0

    def parts(self) -> dict[str, list[Any]]:
        """Name -> records."""
        return {"train": self.train, "validation": self.validation}


def load_records(config: AlignConfig) -> LoadedRecords:
    """The records of a recipe's section, divided.

    Raises:
        UserError: as :func:`read_records` has it, or there are too few.
    """
    read = read_records(config)
    train, validation = split(subset(read.records, config.subset), config.validation_fraction, "align.data")
    return LoadedRecords(train, validation, read.bad, read.alike)


def read_records(config: AlignConfig) -> ReadRecords:
    """The records of a recipe's section.

    Raises:
        UserError: there is no data, it cannot be read, or it holds nothing that the method can use.
    """
    from pipelines.finetune.examples.read import read_examples

    if config.data is None:
        raise nothing_to_learn_from()
    found = read_examples(config.data, "align.data", FOR_PROMPTS if config.on_policy else FOR_PAIRS)
    records: list[Any] = list(found.examples)
    if config.on_policy or found.form != "ratings":
        return ReadRecords(choose(records), found.bad)
    pairs = pairs_of_ratings(records)
    if not pairs:
        raise UserError(
            f"in {len(records):,} rated rows, of which this is the first, no prompt has two answers with different "
            "ratings: nothing is preferred",
            where=records[0].where,
            next_step="give several rated answers to each prompt, or rows with chosen and rejected",
        )
    return ReadRecords(choose(pairs), found.bad, len({each.prompt for each in records}) - len(pairs))


def pairs_of_ratings(rated: Iterable[Rated]) -> list[Preference]:
    """For each prompt the best-rated answer against the worst; prompts whose answers are rated alike give nothing."""
    by_prompt: dict[Messages, list[Rated]] = {}
    for each in rated:
        by_prompt.setdefault(each.prompt, []).append(each)
    pairs = []
    for prompt, answers in by_prompt.items():
        best, worst = max(answers, key=lambda each: each.rating), min(answers, key=lambda each: each.rating)
        if best.rating > worst.rating and best.response != worst.response:
            pairs.append(Preference(prompt, best.response, worst.response, best.where))
    return pairs
