"""The labelled texts that a recipe means, divided."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cluster.errors import InternalError, UserError
from pipelines.finetune.classification.labels import named, ordered, require_seen, require_two, weights_of
from pipelines.finetune.config import DocsPairs, FinetuneConfig
from pipelines.finetune.examples.divide import choose, split, subset
from pipelines.finetune.examples.read import read_examples
from pipelines.finetune.examples.records import Labelled

FORM = "labelled"


@dataclass
class LoadedTexts:
    """Texts by what they are for.

    Attributes:
        labels: every label, in the order of their numbers.
        bad: places of rows that were skipped, each with its reason.
    """

    train: list[Labelled]
    validation: list[Labelled]
    labels: tuple[str, ...]
    bad: list[str] = field(default_factory=list)


def load_texts(config: FinetuneConfig) -> LoadedTexts:
    """The texts of a recipe's section.

    Raises:
        UserError: the data cannot be read, a row is none or has an unknown label, there is one label only, one that is
            held out and never learned, or a weight for one that there is not.
        InfraError: S3 or the Hub does not answer.
    """
    data = config.data
    if isinstance(data, DocsPairs):
        raise InternalError("classification was given no labelled rows", where="finetune.data")
    if data.form == "auto":
        data = data.model_copy(update={"form": FORM})
    read = read_examples(data, "finetune.data", (FORM,))
    given: list[Labelled] = []
    bad = list(read.bad)
    for example in read.examples:
        assert isinstance(example, Labelled)
        if config.labels is not None:
            try:
                example = replace(example, label=named(example, config.labels))
            except UserError as error:
                if data.bad_rows == "refuse":
                    raise
                bad.append(f"{example.where}: {error.what}")
                continue
        given.append(example)
    if not given:
        raise UserError(
            "no row has one of finetune.labels", where=data.path, next_step="check finetune.labels and the data"
        )
    require_two(given, "finetune.data")
    chosen = subset(choose(given), config.subset)
    require_two(chosen, "finetune.subset")
    train, validation = split(chosen, config.validation_fraction, "finetune.data")
    require_seen(train, validation)
    labels = config.labels or ordered(each.label for each in chosen)
    weights_of(labels, (each.label for each in train), config.class_weights)
    return LoadedTexts(train, validation, labels, bad)
