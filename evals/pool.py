"""Ray actors that hold a model, and work that streams through them in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.errors import InfraError
from cluster.resources import require_resources
from evals.answers import AnswerBook, key_of
from evals.prefixes import row_tokens
from evals.scorer import Answer, Group, Prompt, Scorer, SharedBatch

CHUNK_TOKENS = 16_384
"""A call is as many batches as have so many tokens: what is asked again at most, for each worker, after kill -9."""

ACTOR_CPUS = 0.5
"""Logical CPUs; less than one, so that actors start even where other stages' have not quite gone yet."""

CALLS_IN_FLIGHT = 2
"""An actor always has a call waiting, so that it never idles for the length of a round trip."""


class ScorerPool:
    """Some actors with the same model. Which of them answers never shows in a result.

    Attributes:
        asked: how many batches were answered by a model, rather than found in the book.
    """

    def __init__(self, actors: Sequence[Any], book: AnswerBook | None = None) -> None:
        self._actors = list(actors)
        self._loading = [actor.load.remote() for actor in self._actors]
        self._book = book
        self._kept: dict[str, Any] | None = None
        self.asked = 0

    def score(self, batches: list[list[Group]], on_done: Callable[[int], None]) -> list[list[list[Answer]]]:
        """Answers for every batch, in order; ``on_done`` is told how many continuations were answered each time."""
        sizes = [sum(len(group.continuations) for group in batch) for batch in batches]
        tokens = [len(batch) * max((len(group.inputs) for group in batch), default=0) for batch in batches]
        return self._answer("score", batches, sizes, tokens, on_done)

    def score_shared(self, batches: list[SharedBatch], on_done: Callable[[int], None]) -> list[list[list[Answer]]]:
        """As :meth:`score`. The answers are kept as those of another method: they are not equal to the bit."""
        sizes = [sum(len(group.continuations) for group in batch.groups) for batch in batches]
        tokens = [
            batch.prefix + len(batch.groups) * (max(len(group.inputs) for group in batch.groups) - batch.prefix)
            for batch in batches
        ]
        return self._answer("score_shared", batches, sizes, tokens, on_done)

    def score_rows(self, batches: list[list[SharedBatch]], on_done: Callable[[int], None]) -> list[list[list[Answer]]]:
        """As :meth:`score_shared`, of runs that are a row each; answers by batch, sequence and continuation."""
        sizes = [sum(len(group.continuations) for row in batch for group in row.groups) for batch in batches]
        tokens = [len(batch) * max(map(row_tokens, batch), default=0) for batch in batches]
        return self._answer("score_rows", batches, sizes, tokens, on_done)

    def why_not_shared(self) -> str:
        """Why the model cannot :meth:`score_shared`; empty where it can."""
        return str(self._tell("why_not_shared"))

    def takes_rows(self) -> bool:
        """Whether a model that can :meth:`score_shared` can :meth:`score_rows`, too."""
        return bool(self._tell("takes_rows"))

    def _tell(self, method: str) -> Any:
        import ray

        try:
            ray.get(self._loading)
            return ray.get(getattr(self._actors[0], method).remote())
        except ray.exceptions.RayActorError as error:
            raise _died(error) from error

    def generate(self, batches: list[list[Prompt]], on_done: Callable[[int], None]) -> list[list[str]]:
        """Texts for every batch of prompts, in order."""
        sizes = [len(batch) for batch in batches]
        tokens = [sum(prompt.tokens for prompt in batch) for batch in batches]
        return self._answer("generate", batches, sizes, tokens, on_done)

    def map(self, work: Sequence[Callable[[Any], Any]], on_done: Callable[[int], None] = lambda _: None) -> list[Any]:
        """The result of each piece of work (actor -> remote reference), in order."""
        return self._stream(list(work), on_done)

    def _answer(
        self,
        method: str,
        batches: list[Any],
        sizes: list[int],
        tokens: list[int],
        on_done: Callable[[int], None],
    ) -> list[Any]:
        keys = [key_of([method, batch]) for batch in batches] if self._book else [""] * len(batches)
        if self._book and self._kept is None:
            self._kept = self._book.read()
        results = [self._kept.get(key) if self._kept else None for key in keys]
        missing = [index for index, result in enumerate(results) if result is None]
        if len(missing) < len(batches):
            on_done(sum(size for size, result in zip(sizes, results, strict=True) if result is not None))
        chunks = _chunks(missing, tokens, len(self._actors))
        answered = self._stream(
            [
                functools.partial(_ask, method, [batches[i] for i in chunk], [keys[i] for i in chunk], self._book)
                for chunk in chunks
            ],
            lambda number: on_done(sum(sizes[index] for index in chunks[number])),
        )
        self.asked += len(missing)
        for chunk, answers in zip(chunks, answered, strict=True):
            for index, answer in zip(chunk, answers, strict=True):
                results[index] = answer
        return results

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
            raise _died(error) from error
        return results


def _died(error: Exception) -> InfraError:
    return InfraError(
        "an evaluation worker died",
        where="evals",
        next_step="check the machine's free memory, lower evals.batch_size or evals.workers, and repeat: what was"
        " answered is kept",
        attempts=(str(error).strip().splitlines()[0],),
    )


def _chunks(indices: list[int], tokens: list[int], workers: int) -> list[list[int]]:
    """Batches in order, cut where a chunk has CHUNK_TOKENS.

    Towards the end chunks become smaller and smaller (guided self-scheduling, Polychronopoulos and Kuck 1987), so that
    no worker is left with a large one while the others have nothing to do.
    """
    chunks: list[list[int]] = []
    room, left = 0, sum(tokens[index] for index in indices)
    for index in indices:
        if room <= 0:
            chunks.append([])
            room = min(CHUNK_TOKENS, left // (2 * CALLS_IN_FLIGHT * workers)) if workers > 1 else CHUNK_TOKENS
        chunks[-1].append(index)
        room -= tokens[index]
        left -= tokens[index]
    return chunks


def _ask(method: str, batches: list[Any], keys: list[str], book: AnswerBook | None, actor: Any) -> Any:
    return actor.answer.remote(method, batches, keys, book)


@contextmanager
def scorers(
    source: Any, workers: int, backend: str = "transformers", book: AnswerBook | None = None
) -> Iterator[ScorerPool]:
    """Actors that are loading the model already when the context begins; they end with it.

    Raises:
        UserError: the cluster can never hold so many.
        InfraError: it cannot since it lost nodes.
    """
    import ray

    require_resources(workers, "evals", cpus=ACTOR_CPUS)
    actor_class = ray.remote(num_cpus=ACTOR_CPUS, num_gpus=_gpu_share(workers))(_actor(backend))
    actors = [actor_class.remote(source) for _ in range(workers)]
    try:
        yield ScorerPool(actors, book)
    finally:
        for actor in actors:
            ray.kill(actor)


def _actor(backend: str) -> type:
    if backend == "transformers":
        return Scorer
    from evals.vllm_scorer import VllmScorer

    return VllmScorer


def _gpu_share(workers: int) -> float:
    """One GPU a worker where the cluster has so many, otherwise an equal share of what there is."""
    import ray

    return min(1.0, float(ray.cluster_resources().get("GPU", 0.0)) / workers)
