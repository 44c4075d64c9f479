"""Ray Train without what only Ray Data's users need.

Ray Train (2.60) starts an actor that hands out shards of datasets, and imports Ray Data in every worker, whether or not
there are datasets. Raymill's samples come from the token store. The actor started beside the first steps, took two
seconds of a core from them, and a hundredth of one ever after.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):
    """A :class:`TorchTrainer` that is given no datasets."""

    def _create_default_callbacks(self) -> list[Any]:
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]
