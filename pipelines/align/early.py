"""What alignment would refuse once its turn came, said before any stage of a run."""

from __future__ import annotations

from cluster.store import Store
from pipelines.align.config import AlignConfig
from pipelines.align.generation import check as check_machine
from pipelines.align.sources import is_function, reward_artifact


def check(config: AlignConfig, store: Store) -> None:
    """See :attr:`cluster.stage.Stage.check`. Rows are read where this recipe makes what it aligns, which takes hours.

    Raises:
        UserError: vLLM cannot write the answers that it is to write, there is no such reward, or a row cannot be used.
        InfraError: S3 or the Hub does not answer.
    """
    if config.on_policy:
        check_machine(config, store)
        reward = str(config.reward)
        if is_function(reward):
            from pipelines.align.rewards import FunctionReward

            FunctionReward(reward)
        reward_artifact(reward, store)
    if config.model is None:
        from pipelines.align.records import load_records

        load_records(config)
