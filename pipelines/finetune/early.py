"""What fine-tuning would refuse of its rows once its turn came, said before the base is trained."""

from __future__ import annotations

from cluster.store import Store
from pipelines.finetune.config import DocsPairs, FinetuneConfig


def check(config: FinetuneConfig, store: Store) -> None:
    """Read the rows of a recipe that trains the base first; see :attr:`cluster.stage.Stage.check`.

    A base from elsewhere is there in moments, and fine-tuning then reads its rows itself.

    Raises:
        UserError: the data cannot be read, a row is no example (the message names it), or there are too few.
        InfraError: S3 or the Hub does not answer.
    """
    if config.model is not None:
        return
    from pipelines.finetune.load import FORMS, load_examples, remembered

    if isinstance(config.data, DocsPairs):
        remembered(config)  # the corpus's own pairs are not there yet
    elif config.task == "classification":
        from pipelines.finetune.classification.load import load_texts

        load_texts(config)
    elif config.task == "seq2seq":
        from pipelines.finetune.seq2seq.stage import FORMS as OF_PAIRS

        load_examples(config, None, store, OF_PAIRS)
    else:
        load_examples(config, None, store, FORMS)
