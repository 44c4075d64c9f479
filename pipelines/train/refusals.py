"""Combinations of model and layout that cannot be, refused when the recipe is read: nothing has started then."""

from __future__ import annotations

from pipelines.train.config import TrainConfig

SPLITTABLE = ("llama",)
CUTTABLE = ("llama", "gpt2")


def refuse_layout(
    config: TrainConfig,
    architecture: str,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    isolated: bool,
) -> None:
    """Check a pretrained model's dimensions against ``config.parallel``.

    Args:
        isolated: documents in a block do not see each other, so that attention needs a mask.

    Raises:
        ValueError: saying why it cannot be, and what can.
    """
    parallel = config.parallel
    if parallel.tensor > 1:
        if architecture not in SPLITTABLE:
            raise ValueError(
                f"parallel.tensor knows how to split {' and '.join(SPLITTABLE)}, not {architecture}: use "
                "parallel.shard, which works with every model"
            )
        for name, count in (("heads", heads), ("kv_heads", kv_heads), ("intermediate", intermediate)):
            if count % parallel.tensor:
                raise ValueError(
                    f"parallel.tensor {parallel.tensor} does not divide {name} {count}: each worker has as many; "
                    "choose a divisor"
                )
    if parallel.pipeline > 1:
        if architecture not in CUTTABLE:
            raise ValueError(
                f"parallel.pipeline knows how to cut {' and '.join(CUTTABLE)}, not {architecture}: use parallel.shard, "
                "which works with every model"
            )
        if layers < parallel.stages:
            raise ValueError(f"{layers} layers make no {parallel.stages} stages of a pipeline: lower parallel.pipeline")
        if isolated:
            raise ValueError(
                "isolate_documents needs a mask for each sequence, and a pipeline passes only hidden states on: "
                "use parallel.shard or parallel.tensor"
            )


def refuse_adapters(config: TrainConfig) -> None:
    """Adapters are small and their batches of changing length: they are trained with copies or shards.

    Raises:
        ValueError: the layout is another one.
    """
    if config.parallel.tensor > 1 or config.parallel.pipeline > 1:
        raise ValueError(
            "adapters train with parallel.data or parallel.shard: a pipeline needs sequences of one length, and "
            "tensor parallelism would split the adapters, which are too small for it"
        )
