"""One function over many parts with Ray Data, results as they come. A part is small; what it reads and writes is not.

Text goes from store to worker to store and never through Ray's object store or the driver, so memory depends on the
size of one part and not on the corpus. What is written depends on the parts alone, never on how many workers there are.
"""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from cluster.errors import find_raymill_error
from cluster.machine import available_cores
from pipelines.corpus.pace import quicken

if TYPE_CHECKING:
    import pyarrow as pa

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")


def map_parts(
    function: Callable[[PartT], ResultT], parts: Sequence[PartT], workers: int | None = None
) -> Iterator[ResultT]:
    """Results of ``function`` over ``parts``, in the order in which workers finish them.

    The function runs again on another worker if one dies, so it must write the same bytes each time.

    Raises:
        RaymillError: one that the function raised, without Ray's wrapping.
    """
    if not parts:
        return
    # Before the import, which itself says that progress bars are off: our own progress speaks instead.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    import ray
    from ray.data import DataContext, TaskPoolStrategy
    from ray.exceptions import RayError

    quicken()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"part": pickle.dumps(part)} for part in parts]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        functools.partial(_apply, function),
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=min(workers or default_workers(), len(rows))),
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for value in batch.column("result"):
                outcome = pickle.loads(value.as_py())
                if isinstance(outcome, _Failed):
                    raise outcome.error
                yield outcome
    except RayError as error:
        known = find_raymill_error(error)
        if known is not None:
            raise known from error
        raise


def default_workers() -> int:
    """The cores there really are: an embedded Ray declares more CPUs than its machine has."""
    import ray

    declared = int(ray.cluster_resources().get("CPU", 1))
    alone = sum(1 for node in ray.nodes() if node["Alive"]) == 1
    return max(1, min(declared, available_cores()) if alone else declared)


class _Failed:
    """A failure sent back as a value: Ray Data would log a traceback for one that is raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _apply(function: Callable[[PartT], ResultT], batch: pa.Table) -> pa.Table:
    import pyarrow as pa

    results = []
    for value in batch.column("part"):
        outcome: object
        try:
            outcome = function(pickle.loads(value.as_py()))
        except Exception as error:
            if find_raymill_error(error) is not error:
                raise
            outcome = _Failed(error)
        results.append(pickle.dumps(outcome))
    return pa.table({"result": pa.array(results, pa.binary())})
