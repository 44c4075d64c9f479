"""Labels as numbers, and how much each counts. Loads nothing heavy."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from cluster.errors import UserError
from pipelines.finetune.examples.records import Labelled

WHOLE = re.compile(r"-?\d+")


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in the order of their numbers: whole numbers by their value, anything else by its characters."""
    found = set(names)
    if all(WHOLE.fullmatch(name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def named(example: Labelled, known: Sequence[str]) -> str:
    """A row's label as one of those that the recipe names; a whole number is a place in their list.

    Raises:
        UserError: it is none of them.
    """
    label = example.label
    if label in known:
        return label
    if WHOLE.fullmatch(label) and 0 <= int(label) < len(known):
        return known[int(label)]
    near = difflib.get_close_matches(label, known, n=1)
    raise UserError(
        f"its label {label!r} is none of finetune.labels" + (f"; did you mean {near[0]}?" if near else ""),
        where=example.where,
        next_step=f"correct the row (labels: {', '.join(known)}), or add the label to finetune.labels",
    )


def require_two(examples: Sequence[Labelled], where: str) -> None:
    """Raise UserError where there is nothing to tell apart, naming the first row."""
    if len({example.label for example in examples}) == 1:
        raise UserError(
            f"all {len(examples):,} rows have the label {examples[0].label!r}: there is nothing to tell apart",
            where=f"{where}, the first {examples[0].where}",
            next_step="add rows with other labels",
        )


def require_seen(train: Iterable[Labelled], validation: Iterable[Labelled]) -> None:
    """Raise UserError where a label is held out and never learned, naming its row."""
    seen = {example.label for example in train}
    for example in validation:
        if example.label not in seen:
            raise UserError(
                f"its label {example.label!r} is held out for validation, and no example to train on has it",
                where=example.where,
                next_step="add more rows with this label, leave it out, or change finetune.validation_fraction",
            )


def weights_of(
    labels: Sequence[str], counted: Iterable[str], setting: Literal["balanced"] | Mapping[str, float] | None
) -> list[float] | None:
    """A weight for each label, by its number; None where all count the same.

    Args:
        counted: the label of every example to train on; ``balanced`` gives each label
            ``examples / (labels * examples of it)``, as scikit-learn does.

    Raises:
        UserError: a weight is for a label that there is not, or a label has no example to balance by.
    """
    if setting is None:
        return None
    if setting == "balanced":
        found = Counter(counted)
        missing = [label for label in labels if not found[label]]
        if missing:
            raise UserError(
                f"no example to train on has the label {missing[0]!r}, so that it cannot be balanced",
                where="finetune.class_weights",
                next_step="add rows with it, leave it out of finetune.labels, or write the weights",
            )
        return [found.total() / (len(labels) * found[label]) for label in labels]
    for label in setting:
        if label not in labels:
            near = difflib.get_close_matches(label, labels, n=1)
            raise UserError(
                f"{label!r} is no label" + (f"; did you mean {near[0]}?" if near else ""),
                where="finetune.class_weights",
                next_step=f"labels here: {', '.join(labels)}",
            )
    return [float(setting.get(label, 1.0)) for label in labels]
