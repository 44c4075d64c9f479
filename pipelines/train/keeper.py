"""What the loop tells its surroundings, and what it gets back from them: the journal and the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster.errors import InfraError
from cluster.store import Store
from pipelines.train import checkpoint
from pipelines.train.checkpoint import Checkpoint, State
from pipelines.train.group import Group
from pipelines.train.journal import Journal
from pipelines.train.saver import Saver


class Keeper:
    """One for each process; those that do not lead keep no journal.

    Args:
        prefix: the folder of this try's checkpoints.
        earlier: such folders of earlier tries, which count as well.
        keep: newest checkpoints to keep.
        show: takes every record as well, where there is a journal.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        earlier: Sequence[str],
        group: Group,
        journal: Journal | None,
        keep: int,
        show: Callable[[Mapping[str, Any]], None] = lambda record: None,
    ) -> None:
        self._store, self._group, self._journal, self._show = store, group, journal, show
        self._prefixes = [prefix, *earlier]
        self._saver = Saver(store, prefix, group, keep)

    def record(self, values: Mapping[str, Any]) -> None:
        """Take metrics or a note, which has ``kind`` and ``step``."""
        if self._journal:
            self._journal.write(dict(values))
            self._show(values)

    def save(self, step: int, state: State, memory: Mapping[str, Any], best: int | None) -> None:
        """Begin a checkpoint; see :meth:`pipelines.train.saver.Saver.save`."""
        if self._journal:
            self._journal.flush()  # first: a run that continues from the checkpoint must find every record up to it
        self._saver.save(step, state, memory, best)

    def tell(self, step: int) -> None:
        """Record the checkpoints that ended since this was last asked."""
        for saved in self._saver.news():
            if saved.problem:
                text = f"the checkpoint at step {saved.step:,} could not be written: {saved.problem}; training goes on"
                self.record({"kind": "event", "step": step, "text": text})
            else:
                self.record(
                    {"kind": "checkpoint", "step": step, "of_step": saved.step, "seconds": round(saved.seconds, 3)}
                )

    def wait(self) -> None:
        """Return when no checkpoint is being written."""
        self._saver.wait()

    def finish(self) -> None:
        """Return when the last checkpoint counts."""
        self._saver.finish()

    def reject(self, beyond: int, memory: Mapping[str, Any]) -> None:
        """No later start may continue from a checkpoint with more steps; see :func:`checkpoint.reject`."""
        if not self._group.leads:
            return
        try:
            checkpoint.reject(self._store, self._prefixes[0], beyond, memory)
        except (OSError, InfraError) as error:
            text = f"the way back to step {beyond:,} could not be noted: {error}; a restart would repeat it"
            self.record({"kind": "event", "step": beyond, "text": text})

    def restore(self, state: State, below: int | None = None) -> Checkpoint | None:
        """Fill a state with the newest sound checkpoint's, and say which that is; None where there is none.

        Args:
            below: only from one with fewer steps.
        """
        found = None
        if self._group.leads:
            found = checkpoint.newest_sound(self._store, self._prefixes, below)
        newest, damaged = self._group.agree(found)
        for text in damaged:
            self.record({"kind": "note", "step": newest.step if newest else 0, "text": text})
        if newest is None:
            return None
        if newest.memory.get(checkpoint.WEIGHTS_ONLY):
            state = {name: tensor for name, tensor in state.items() if name.startswith(checkpoint.MODEL)}
        checkpoint.load(self._store, newest, state, self._group.saving, alone=self._group.world == 1)
        return newest
