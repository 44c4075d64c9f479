"""The course of a population: all members train to the next comparison, the last ones continue from the first.

What a comparison decides follows from the recorded losses and the seed, and is applied member by member so that it can
be cut off anywhere: a member's record is changed last, and nobody trains on before all records are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.artifact import load_artifact
from cluster.attempt import is_alive
from cluster.errors import InfraError
from pipelines.train.handover import hand_over
from pipelines.tune.population import change_to, explored, parents, points
from pipelines.tune.record import Records, Takeover, TrialRecord
from pipelines.tune.search import Search

Fit = Callable[[Sequence[int], float | None], None]
"""Trains members, by number, to a share of the training, or to the end."""


def train_population(search: Search, records: Records, fit: Fit, say: Callable[[str], None]) -> None:
    """All generations that are left; returns early where time ran out.

    Raises:
        InfraError: the cluster lost a member, or a checkpoint that one was to continue from.
    """
    shares = points(search.config.interval_fraction)
    for generation, share in enumerate([*shares, None]):
        todo = [each.number for each in _here(search, records, generation) if each.state == "running"]
        if todo:
            fit(todo, share)
        here = _here(search, records, generation)
        lost = [each for each in here if each.state == "failed"]
        if lost:
            raise InfraError(
                f"trial {lost[0].number} was lost: {lost[0].reason}",
                where="tune",
                next_step="repeat the command; every trial continues from its checkpoint",
            )
        if any(each.state == "running" for each in here):
            return
        if share is not None:
            settle(search, records, generation, share, say)
    _clear(search, records)


def _here(search: Search, records: Records, generation: int) -> list[TrialRecord]:
    """Members that are not over and have so many comparisons behind them."""
    numbers = {trial.number for trial in search.trials}
    return [each for each in records if each.number in numbers and not each.is_over and each.generation == generation]


def settle(search: Search, records: Records, generation: int, share: float, say: Callable[[str], None]) -> None:
    """Decide who goes on from whom after a generation, and prepare it."""
    members = {each.number: each for each in records if len(each.marks) > generation}
    chosen = parents(search.config, generation, {n: each.marks[generation].loss for n, each in members.items()})
    known = {number: members[number].current for number in set(chosen.values())}
    artifacts = {each.number: search.artifact_of(each) for each in members.values() if not each.is_over}
    values = explored(search.config, generation, chosen, known)
    for number, each in members.items():
        if each.generation != generation or each.is_over:
            continue
        if number not in chosen:
            records.change(number, state="running", generation=generation + 1)
            continue
        parent = members[chosen[number]]
        changes = list(parent.changes)
        if values[number] != known[parent.number]:
            changes.append(change_to(share, known[parent.number], values[number]))
        after = each.model_copy(
            update={
                "state": "running",
                "generation": generation + 1,
                "values": dict(parent.values),
                "changes": changes,
                "reports": list(parent.reports),
                "takeovers": [*parent.takeovers, Takeover(at_fraction=share, number=parent.number)],
            }
        )
        left, artifacts[number] = artifacts[number], search.artifact_of(after)
        if artifacts[number] != artifacts[parent.number]:
            hand_over(records.store, artifacts[parent.number], artifacts[number], parent.marks[generation].step)
        if left not in artifacts.values() and not search.config.keep_stopped:
            _remove_tries(records, left)  # nobody continues it
        records.put(after)
        shown = ", ".join(f"{key}={value}" for key, value in values[number].items())
        say(f"trial {number} gives up at {100 * share:.0f} % and goes on from trial {parent.number} with {shown}")


def _clear(search: Search, records: Records) -> None:
    """Remove tries beside the published ones: a member trains although its model was there from an earlier search."""
    for record in records:
        if record.state == "finished":
            _remove_tries(records, search.artifact_of(record))


def _remove_tries(records: Records, artifact: str) -> None:
    published = load_artifact(records.store, artifact)
    for name in records.store.folders(artifact):
        if (published is None or name != published.attempt) and not is_alive(records.store, f"{artifact}/{name}"):
            records.store.delete_all(f"{artifact}/{name}")
