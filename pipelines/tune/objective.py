"""What trials are compared by: a metric of one of the recipe's stages, found before anything runs. Light."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.artifact import Artifact
from cluster.errors import UserError
from pipelines.graph import MODEL_SECTIONS, Node
from pipelines.tune.reported import best_side, is_of_a_class, reported

PRETRAINING = ("validation.loss", "validation.perplexity", "train.loss", "tokens_per_second")
"""What pretraining reports."""

A_TOKEN = ("validation.loss", "validation.perplexity", "train.loss", "heldout.perplexity", "heldout.train_perplexity")
"""Figures per token: of models with other tokenizers they cannot be compared."""


@dataclass(frozen=True)
class Objective:
    """A metric of a node's artifact, and whether its highest or its lowest value is the best."""

    node: str
    metric: str
    mode: str

    @property
    def name(self) -> str:
        """The metric as it is shown."""
        return f"{self.node}.{self.metric}"

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one < other if self.mode == "min" else one > other

    def read(self, artifact: Artifact) -> float:
        """The value that the node's artifact reports. ``_`` in the metric's name may stand for a dot.

        Raises:
            UserError: it reports no such metric; the message names those that it does.
        """
        known = {**artifact.counts, **artifact.metrics}
        found = [name for name in known if name == self.metric] or [
            name for name in known if _plain(name) == _plain(self.metric)
        ]
        if len(found) == 1:
            return float(known[found[0]])
        raise UserError(
            f"{self.node} reports no {self.metric}" + _meant(self.metric, known),
            where="tune.metric",
            next_step=f"it reports {', '.join(sorted(artifact.metrics)) or 'no metrics'}",
        )


def find_objective(metric: str, mode: str | None, nodes: Sequence[Node], where: str) -> Objective:
    """The objective that a recipe names: ``NODE.METRIC``, or a metric of the last model's evaluation.

    Args:
        mode: which side is the best; by default what the metric's name says.

    Raises:
        UserError: no stage of this recipe reports it.
    """
    mode = mode or best_side(metric)
    names = [node.name for node in nodes]
    for node in sorted(nodes, key=lambda each: len(each.name), reverse=True):
        name = node.name
        if metric.startswith(f"{name}.") and len(metric) > len(name) + 1:
            rest = metric[len(name) + 1 :]
            listed = PRETRAINING if name == "pretrain" else reported(node.config)
            known = {_plain(each): each for each in listed}
            if known and _plain(rest) not in known and not is_of_a_class(node.config, rest):
                raise UserError(
                    f"{name} reports no {rest}" + _meant(rest, listed),
                    where=where,
                    next_step=f"it reports {', '.join(listed)}",
                )
            return Objective(name, known.get(_plain(rest), rest), mode)
    first = metric.partition(".")[0]
    evaluations = [name for name in names if name.startswith("evals-")]
    if first in (*MODEL_SECTIONS, "corpus", "curate", "tokenizer", "tokens"):
        raise UserError(
            f"the recipe has no {first}" if first not in names else f"{metric} names no metric",
            where=where,
            next_step=f"write the section {first}:, or name a metric of {', '.join(names)}",
        )
    if evaluations:
        return Objective(evaluations[-1], metric, mode)
    raise UserError(
        f"{metric} is no metric of a stage of this recipe" + _meant(first, names),
        where=where,
        next_step=f"write STAGE.METRIC with one of {', '.join(names)}, or an evals section for scores",
    )


def trained_node(objective: Objective, nodes: Sequence[Node]) -> Node | None:
    """The training that decides the objective, whose validation losses trials are compared by on the way."""
    by_name = {node.name: node for node in nodes}
    node = by_name[objective.node]
    if node.section in MODEL_SECTIONS:
        return node
    model = node.inputs.get("model")
    return by_name[model] if model else None


def chain(nodes: Sequence[Node], last: str) -> list[Node]:
    """The nodes that a node reads from, directly or not, and itself, in the order they run."""
    by_name = {node.name: node for node in nodes}
    needed, pending = set(), [last]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending.extend(by_name[name].inputs.values())
    return [node for node in nodes if node.name in needed]


def _plain(name: str) -> str:
    return name.replace("_", ".")


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
