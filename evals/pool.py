"""Ray actors that hold a model, and work that streams through them in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.errors import InfraError
from cluster.resources import require_resources
from evals.scorer import Answer, Group, ModelSource, Scorer

BATCHES_A_CALL = 4
ACTOR_CPUS = 0.5
"""Logical CPUs; less than one, so that actors start even where other stages' have not quite gone yet."""

CALLS_IN_FLIGHT = 2
"""An actor always has a call waiting, so that it never idles for the length of a round trip."""


class ScorerPool:
    """Some actors with the same model. Which of them answers never shows in a result."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._loading = [actor.load.remote() for actor in self._actors]

    def score(self, batches: list[list[Group]], on_done: Callable[[int], None]) -> list[list[list[Answer]]]:
        """Answers for every batch, in order; ``on_done`` is told how many continuations each call answered."""
        calls = [batches[start : start + BATCHES_A_CALL] for start in range(0, len(batches), BATCHES_A_CALL)]
        sizes = [sum(len(group.continuations) for batch in call for group in batch) for call in calls]
        answered = self._stream(
            [functools.partial(_ask_to_score, call) for call in calls],
            lambda index: on_done(sizes[index]),
        )
        return [batch for call in answered for batch in call]

    def map(self, work: Sequence[Callable[[Any], Any]], on_done: Callable[[int], None] = lambda _: None) -> list[Any]:
        """The result of each piece of work (actor -> remote reference), in order."""
        return self._stream(list(work), on_done)

    def _stream(self, work: list[Callable[[Any], Any]], on_done: Callable[[int], None]) -> list[Any]:
        import ray

        results: list[Any] = [None] * len(work)
        waiting = iter(range(len(work)))
        running: dict[Any, tuple[int, Any]] = {}

        def submit(actor: Any) -> None:
            index = next(waiting, None)
            if index is not None:
                running[work[index](actor)] = (index, actor)

        for _ in range(CALLS_IN_FLIGHT):
            for actor in self._actors:
                submit(actor)
        try:
            ray.get(self._loading)
            while running:
                done, _ = ray.wait(list(running), num_returns=1)
                index, actor = running.pop(done[0])
                results[index] = ray.get(done[0])
                on_done(index)
                submit(actor)
        except ray.exceptions.RayActorError as error:
            raise InfraError(
                "an evaluation worker died",
                where="evals",
                next_step="check the machine's free memory, lower evals.batch_size or evals.workers, and repeat",
                attempts=(str(error).strip().splitlines()[0],),
            ) from error
        return results


def _ask_to_score(call: list[list[Group]], actor: Any) -> Any:
    return actor.score.remote(call)


@contextmanager
def scorers(source: ModelSource, workers: int) -> Iterator[ScorerPool]:
    """Actors that are loading the model already when the context begins; they end with it.

    Raises:
        UserError: the cluster can never hold so many.
    """
    import ray

    require_resources(workers, "evals", cpus=ACTOR_CPUS)
    actor_class = ray.remote(num_cpus=ACTOR_CPUS, num_gpus=_gpu_share(workers))(Scorer)
    actors = [actor_class.remote(source) for _ in range(workers)]
    try:
        yield ScorerPool(actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def _gpu_share(workers: int) -> float:
    """One GPU a worker where the cluster has so many, otherwise an equal share of what there is."""
    import ray

    return min(1.0, float(ray.cluster_resources().get("GPU", 0.0)) / workers)
