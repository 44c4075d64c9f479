"""Checkpoints of trials that were stopped: nobody continues them, so they go unless the recipe keeps them."""

from __future__ import annotations

from cluster.artifact import load_artifact
from cluster.attempt import is_alive
from pipelines.tune.record import Records
from pipelines.tune.search import Search


def tidy(search: Search, records: Records, *, last: bool = False) -> None:
    """Remove what stopped trials left, except tries that are alive and whatever belongs to an artifact.

    Args:
        last: no process of a trial is left, so what is removed now stays away.
    """
    if search.config.keep_stopped:
        return
    for record in records:
        if record.state != "stopped" or record.tidied:
            continue
        artifact = search.trained_artifact(record.number)
        if artifact is not None and load_artifact(records.store, artifact) is None:
            for attempt in records.store.folders(artifact):
                if not is_alive(records.store, f"{artifact}/{attempt}"):
                    records.store.delete_all(f"{artifact}/{attempt}")
        if last:
            records.change(record.number, tidied=True)
