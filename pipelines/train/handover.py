"""A checkpoint of one artifact's training as the beginning of another's: the two do the same until there.

It is put where an earlier try of the other would have left it, with the journal up to it, so that nothing else knows.
"""

from __future__ import annotations

from cluster.attempt import RESUME
from cluster.errors import InfraError
from cluster.store import Store
from pipelines.train.journal import carry_over
from pipelines.train.launch import FOLDER
from pipelines.train.worker import CHECKPOINTS, JOURNAL

HANDED_OVER = "00000000T000000-handed-over"
"""Name of that try: older than any other."""


def hand_over(store: Store, source: str, target: str, step: int) -> None:
    """Let artifact ``target`` continue from what the tries at ``source`` have at a step; done twice, it is as once.

    Raises:
        InfraError: none of them has a sound checkpoint there.
    """
    from pipelines.train.checkpoint import COMPLETE, damage, find, folder_of

    prefix = f"{target}/{HANDED_OVER}/{RESUME}/{FOLDER}"
    key = folder_of(f"{prefix}/{CHECKPOINTS}", step)
    if store.exists(f"{key}/{COMPLETE}"):
        return
    tries = [f"{source}/{name}/{RESUME}/{FOLDER}" for name in sorted(store.folders(source), reverse=True)]
    found = [each for each in find(store, [f"{prefix}/{CHECKPOINTS}" for prefix in tries]) if each.step == step]
    checkpoint = next((each for each in found if not damage(store, each)), None)
    if checkpoint is None:
        raise InfraError(
            f"the checkpoint at step {step:,} is gone or damaged, from which another trial was to continue",
            where=store.uri(source),
            next_step="repeat the command; where that does not help, delete the search's folder to begin anew",
        )
    carry_over(store, f"{checkpoint.key.rpartition(f'/{CHECKPOINTS}/')[0]}/{JOURNAL}", f"{prefix}/{JOURNAL}")
    names = [item.key[len(checkpoint.key) + 1 :] for item in store.files(f"{checkpoint.key}/")]
    for name in sorted(names, key=lambda each: each == COMPLETE):  # last: without it the rest is no checkpoint
        store.copy(f"{checkpoint.key}/{name}", f"{key}/{name}")
