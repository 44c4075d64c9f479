"""What a population needs of a recipe and a space, asked before anything starts."""

from __future__ import annotations

from typing import Any

from cluster.config import Document
from cluster.errors import UserError
from pipelines.graph import Node
from pipelines.recipe import Recipe
from pipelines.train.changes import CHANGEABLE, ChangeConfig
from pipelines.tune.config import TuneConfig
from pipelines.tune.objective import Objective
from pipelines.tune.population import points
from pipelines.tune.space import Proposal
from pipelines.tune.trial_recipe import space_place, trial_recipe

FEWEST = 4
"""Members of a population: with fewer, the best and the last are hardly apart."""

SECTIONS = ("pretrain", "finetune")

OTHER_WAYS = {
    "grid": ("a grid tries each value once", "choice"),
    "integers": ("a fifth more or less of a whole number is none", "uniform or choice"),
}
"""Ways of a space that a population has no use for -> why, and what does."""


def check_population(
    document: Document,
    config: TuneConfig,
    objective: Objective,
    trained: Node | None,
    trials: list[tuple[Proposal, Recipe | None]],
) -> None:
    """Hold a recipe against ``scheduler: pbt``.

    Raises:
        UserError: naming the line of what cannot be.
    """
    here = document.place(("tune", "scheduler"))
    if trained is None or trained.section not in SECTIONS:
        raise UserError(
            f"pbt compares and copies trials while {' or '.join(SECTIONS)} trains, and {objective.name} is measured "
            f"{'without training' if trained is None else f'on what {trained.section} trains'}",
            where=here,
            next_step="set tune.scheduler: none, or choose a metric of pretrain, finetune or their evaluation",
        )
    section = trained.section
    _check_space(document, config, section)
    if len(trials) < FEWEST:
        asked = "trials" if config.trials is not None and config.trials < FEWEST else "space"
        raise UserError(
            f"pbt needs {FEWEST} trials or more, and there are {len(trials)}",
            where=document.place(("tune", asked)),
            next_step="raise tune.trials" if asked == "trials" else "give the space more values",
        )
    written: Any = trained.config
    if written.changes:
        raise UserError(
            f"pbt writes {section}.changes itself",
            where=document.place((section, "changes")),
            next_step="leave it out, or set tune.scheduler: none",
        )
    if written.early_stopping is not None:
        raise UserError(
            "early_stopping ends trials at different times, and pbt compares them at the same",
            where=document.place((section, "early_stopping")),
            next_step="leave it out, or set tune.scheduler: asha",
        )
    _check_changes(document, config, section, trials)


def _check_space(document: Document, config: TuneConfig, section: str) -> None:
    allowed = [f"{section}.{name}" for name in CHANGEABLE]
    for key, space in config.space.items():
        if key not in allowed:
            raise UserError(
                f"{key} cannot change in mid-training, as pbt would have it",
                where=document.place(space_place(key)),
                next_step=f"vary {', '.join(allowed)}, or set tune.scheduler: asha",
            )
        if space.way in OTHER_WAYS:
            why, instead = OTHER_WAYS[space.way]
            raise UserError(
                f"{key}: {why}, and pbt moves between values",
                where=document.place(space_place(key)),
                next_step=f"write {instead} in place of {space.way}",
            )


def _check_changes(
    document: Document, config: TuneConfig, section: str, trials: list[tuple[Proposal, Recipe | None]]
) -> None:
    """The recipe of a member that changed at every comparison, with each end of every key."""
    proposal = next(proposal for proposal, recipe in trials if recipe is not None)
    for key, space in config.space.items():
        for value in (space.values[0], space.values[-1]):
            name = key.rpartition(".")[2]
            changes = [ChangeConfig(at_fraction=share, **{name: value}) for share in points(config.interval_fraction)]
            plain = [{"at_fraction": each.at_fraction, **each.values} for each in changes]
            try:
                trial_recipe(document, {**proposal.values, f"{section}.changes": plain})
            except UserError as error:
                raise UserError(
                    error.what,
                    where=document.place(space_place(key)),
                    next_step="raise tune.interval_fraction, train for longer, or leave that key out",
                ) from None
