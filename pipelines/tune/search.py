"""A search before it starts: its trials, what they share, what they differ in, and its name. Nothing is made here."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.artifact import Identity
from cluster.config import Document
from cluster.errors import UserError
from pipelines.graph import Node, build_graph, identities
from pipelines.recipe import Recipe, validate_recipe
from pipelines.tune.config import TuneConfig
from pipelines.tune.objective import A_TOKEN, Objective, chain, find_objective, trained_node
from pipelines.tune.population_checks import check_population
from pipelines.tune.record import TrialRecord
from pipelines.tune.space import Proposal, proposals
from pipelines.tune.trial_recipe import check_space, space_place, trial_recipe

BASES = 4
"""Trials in which each key is changed alone, to see whether it changes anything."""

COMPARED = 32
"""Trials whose identities are compared to see what all share; what the others share is reused all the same."""


@dataclass(frozen=True)
class Trial:
    """A proposal with its recipe, or with the reason why there is none."""

    proposal: Proposal
    recipe: Recipe | None
    problem: str = ""

    @property
    def number(self) -> int:
        """Its place in the search, from 0."""
        return self.proposal.number


@dataclass(frozen=True)
class Search:
    """See the module's text.

    Attributes:
        id: the name of its folder in the store; the same recipe, space and seed have the same.
        recipe: as written, from which the store and the cluster are taken.
        trained: the node whose validations are followed while it trains, where one decides the objective.
        shared: nodes that are the same in all trials, in order, each with its identity.
        own: nodes that a trial makes for itself, as the first trial has them.
    """

    id: str
    document: Document
    recipe: Recipe
    config: TuneConfig
    objective: Objective
    trained: str | None
    trials: Sequence[Trial]
    shared: Sequence[tuple[Node, Identity]]
    own: Sequence[Node]

    def trained_artifact(self, number: int) -> str | None:
        """The id of the artifact that a trial trains; None where it trains none, or has no recipe."""
        recipe = self.trials[number].recipe if number < len(self.trials) else None
        return None if recipe is None or self.trained is None else self._trained_id(recipe)

    def _trained_id(self, recipe: Recipe) -> str:
        assert self.trained is not None
        return identities(chain(build_graph(recipe), self.trained))[self.trained].id

    @property
    def changing(self) -> str:
        """The section whose values a population's members change."""
        return next(iter(self.config.space)).partition(".")[0]

    def values_of(self, record: TrialRecord) -> dict[str, Any]:
        """Key of the recipe -> value, of all that a trial's recipe has in place of what is written."""
        return {**record.values, f"{self.changing}.changes": record.changes} if record.changes else dict(record.values)

    def recipe_of(self, record: TrialRecord) -> Recipe:
        """The recipe of a trial with what has become of it.

        Raises:
            UserError: its values do not go together.
        """
        return trial_recipe(self.document, self.values_of(record))

    def artifact_of(self, record: TrialRecord) -> str:
        """The id of the artifact that such a recipe trains."""
        return self._trained_id(self.recipe_of(record))


def plan_search(document: Document) -> Search:
    """Read a recipe with a ``tune`` section, and check all of it.

    Raises:
        UserError: a key or a value that cannot be, a metric that no stage reports, a key that changes nothing, or
            trials that could not be compared.
    """
    recipe = validate_recipe(document)
    config = recipe.tune
    if config is None:
        raise UserError(
            "the recipe has no section tune",
            where=document.name,
            next_step="write tune: with metric and space; docs/tuning.md shows one",
        )
    check_space(document, config.space)
    trials = [_trial(document, each) for each in proposals(config)]
    sound = [trial.recipe for trial in trials if trial.recipe is not None]
    if not sound:
        raise UserError(
            f"no trial's values go together: {trials[0].problem}",
            where=document.place(("tune", "space")),
            next_step="change the space",
        )
    metric_place = document.place(("tune", "metric"))
    objective = find_objective(config.metric, config.mode, build_graph(sound[0]), metric_place)
    for other in sound[1:COMPARED]:  # a trial's method or task may report other things
        find_objective(config.metric, config.mode, build_graph(other), metric_place)
    nodes = chain(build_graph(sound[0]), objective.node)
    trained = trained_node(objective, nodes)
    if config.scheduler == "asha" and trained is None:
        raise UserError(
            f"asha compares trials while they train, and {objective.name} is measured without training",
            where=document.place(("tune", "scheduler")),
            next_step="leave tune.scheduler out, or choose a metric of pretrain, finetune or their evaluation",
        )
    if config.scheduler == "pbt":
        check_population(document, config, objective, trained, [(each.proposal, each.recipe) for each in trials])
    _check_comparable(document, config, objective)
    _check_effect(document, config, trials, objective)
    found = identities(nodes)
    common = _common({name: each.id for name, each in found.items()}, sound, objective)
    shared = [(node, found[node.name]) for node in nodes if node.name in common]
    own = [node for node in nodes if node.name not in common]
    name = _name(recipe.name, config, objective, found, len(trials))
    return Search(name, document, recipe, config, objective, trained.name if trained else None, trials, shared, own)


def _trial(document: Document, proposal: Proposal) -> Trial:
    try:
        return Trial(proposal, trial_recipe(document, proposal.values))
    except UserError as error:
        return Trial(proposal, None, error.what.splitlines()[0])


def _common(first: dict[str, str], recipes: Sequence[Recipe], objective: Objective) -> set[str]:
    """Names of nodes that have one identity in all of the recipes."""
    common = set(first)
    for recipe in recipes[1:COMPARED]:
        found = identities(chain(build_graph(recipe), objective.node))
        common = {name for name in common if name in found and found[name].id == first[name]}
    return common - {objective.node}


def _check_comparable(document: Document, config: TuneConfig, objective: Objective) -> None:
    """Refuse losses per token where trials differ in what a token is."""
    keys = [key for key in config.space if key.partition(".")[0] == "tokenizer"]
    if not keys or (config.scheduler == "none" and objective.metric.replace("_", ".") not in _A_TOKEN):
        return
    raise UserError(
        f"{keys[0]} changes what a token is, and {objective.name if config.scheduler == 'none' else 'asha'} compares "
        "losses per token, which a smaller vocabulary lowers by itself",
        where=document.place(space_place(keys[0])),
        next_step="set tune.metric: heldout.bits_per_byte (with an evals section) and tune.scheduler: none",
    )


_A_TOKEN = frozenset(name.replace("_", ".") for name in A_TOKEN)


def _check_effect(document: Document, config: TuneConfig, trials: Sequence[Trial], objective: Objective) -> None:
    """Refuse a key that changes nothing of what the objective is measured on: its trials would all be one."""
    bases = [trial.proposal.values for trial in trials if trial.recipe is not None][:BASES]
    for (key, space), base in itertools.product(config.space.items(), bases):
        ends = [space.values[0], space.values[-1]]
        recipes = [_trial(document, Proposal(0, {**base, key: value})).recipe for value in ends]
        if len(space.values) == 1 or None in recipes:
            continue  # with other values of the other keys both may be possible
        chains = [chain(build_graph(recipe), objective.node) for recipe in recipes if recipe is not None]
        if len({identities(nodes)[objective.node].fingerprint for nodes in chains}) == 1:
            raise UserError(
                f"{key} changes nothing that {objective.name} is measured on",
                where=document.place(space_place(key)),
                next_step="leave it out, or choose a metric of a later stage; keys such as workers change no result",
            )


def _name(recipe: str, config: TuneConfig, objective: Objective, found: dict[str, Identity], trials: int) -> str:
    """The recipe's name and a digest of all that decides which trials there are and what becomes of them.

    Neither budgets nor ways of working are in it: more trials continue a search, except where they are a population.
    """
    early: list[Any] = [config.grace_fraction, config.reduction] if config.scheduler == "asha" else []
    if config.scheduler == "pbt":  # all its trials decide about each
        early = [config.interval_fraction, config.quantile_fraction, config.resample_probability, trials]
    decides = {
        "space": {key: each.model_dump(mode="json", exclude_none=True) for key, each in config.space.items()},
        "objective": [objective.name, objective.mode],
        "scheduler": [config.scheduler, *early],
        "seed": config.seed,
        "first": found[objective.node].fingerprint,
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{recipe}-{digest[:12]}"
