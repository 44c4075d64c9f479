"""Ray Train without what only Ray Data's users need, and with torch's sockets on one address.

Ray Train (2.60) starts an actor that hands out shards of datasets, and imports Ray Data in every worker, whether or not
there are datasets. Raymill's samples come from the token store. The actor started beside the first steps, took two
seconds of a core from them, and a hundredth of one ever after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from cluster.torch_store import LOOPBACK, listen_where_told


class _Backend(_TorchBackend):
    """Ray Train's own, whose workers meet on loopback where they are on one node, else on the first one's address."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        alone = len(set(worker_group.execute(_node))) == 1
        worker_group.execute(listen_where_told, LOOPBACK if alone else None)
        super().on_start(worker_group, backend_config)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


@dataclass
class Meeting(TorchConfig):
    """How the workers find each other."""

    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


class Trainer(TorchTrainer):
    """A :class:`TorchTrainer` that is given no datasets."""

    def _create_default_callbacks(self) -> list[Any]:
        from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]
