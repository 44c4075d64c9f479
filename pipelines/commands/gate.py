"""`raymill gate`: may this model replace that one? Leaves the decision that a rollout asks for. Needs no Ray.

Exit codes: 0 pass, 1 fail, 4 no evidence either way.
"""

from __future__ import annotations

import getpass
import json
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from cluster.errors import UserError
from cluster.progress import table
from cluster.store import open_store
from pipelines.commands.common_arguments import DEFAULT_STORE
from pipelines.commands.compare import checked_alpha, write_page
from pipelines.graph import build_graph, identities
from pipelines.objective import Target, parse_target
from pipelines.recipe import Recipe, load_recipe


def gate(arguments: Namespace) -> int:
    """Check what the recipe or the command line asks, print it, publish the decision."""
    from cluster.decision import publish_decision
    from evals.decide.comparison import compare
    from evals.decide.gate import EXIT_CODES, Condition, decide
    from evals.decide.gate_words import SENTENCES, gate_page, table_rows
    from evals.decide.reading import load_measured

    alpha = checked_alpha(arguments.alpha)
    recipe = load_recipe(arguments.recipe) if arguments.recipe else None
    store = open_store(arguments.store or (recipe.store if recipe else DEFAULT_STORE))
    targets = [*(recipe.objective.parsed() if recipe else []), *map(_target, arguments.targets)]
    margins = {**(recipe.objective.not_worse if recipe else {}), **dict(map(_margin, arguments.margins))}
    named = _evaluations(arguments, recipe)
    candidate = load_measured(store, named[0])
    baseline = load_measured(store, named[1]) if named[1] else None
    models = [
        _model(arguments.candidate_model) or candidate.model,
        _model(arguments.baseline_model) or (baseline.model if baseline else ""),
    ]
    if models[0] == models[1]:
        raise UserError(
            f"both evaluations are of {models[0]}",
            where="raymill gate",
            next_step="name the evaluations of two models",
        )
    result = decide(
        candidate,
        baseline,
        [Condition(target.metric, target.comparison, target.bound) for target in targets],
        margins,
        alpha=alpha,
        measured=arguments.measured,
    )
    compared = None
    if baseline:
        with suppress(UserError):  # it only adds to the page: the decision stands without it
            compared = compare(baseline, candidate, alpha=alpha, any_settings=True)
    page = gate_page(result, candidate, baseline, compared)
    decision = ""
    if not arguments.dry_run:
        rests_on = {"candidate": candidate.artifact, "baseline": baseline.artifact if baseline else None}
        decision = publish_decision(
            store,
            candidate=models[0],
            baseline=models[1],
            verdict=result.verdict,
            checks=[check.record() for check in result.checks],
            by=f"raymill gate, {getpass.getuser()}",
            inputs={role: artifact for role, artifact in rests_on.items() if artifact is not None},
            page=page.render(),
        ).id
    if arguments.page:
        write_page(page, arguments.page)
    told = {"verdict": result.verdict, "candidate": models[0], "baseline": models[1], "decision": decision}
    told |= {"benchmarks": candidate.questions}
    if arguments.json:
        print(json.dumps({**told, "alpha": alpha, "checks": [check.record() for check in result.checks]}, indent=1))
        return EXIT_CODES[result.verdict]
    print(f"candidate {models[0]}" + (f"\nbaseline  {models[1]}" if models[1] else "") + "\n")
    print(table(table_rows(result.checks, candidate)))
    print(f"\n{result.verdict.replace('_', ' ')}: {SENTENCES[result.verdict]}")
    if baseline and not margins:
        print("nothing was asked of the difference from the baseline: --not-worse, or objective.not_worse, does")
    if decision:
        print(f"decision {decision}" + ("" if models[1] else "; a rollout needs one that names a baseline"))
    return EXIT_CODES[result.verdict]


def _evaluations(arguments: Namespace, recipe: Recipe | None) -> tuple[str, str]:
    """What to load for the candidate and the baseline (which may be empty)."""
    if arguments.candidate:
        return arguments.candidate, arguments.baseline or ""
    if recipe is None:
        raise UserError(
            "no candidate is named", where="raymill gate", next_step="name its evaluation, or give a --recipe"
        )
    nodes = build_graph(recipe)
    found = identities(nodes)
    own = {node.inputs["model"]: found[node.name].id for node in nodes if node.section == "evals"}
    rollout = recipe.serving.rollout
    if rollout is not None:
        models = {variant.name: variant.model for variant in recipe.serving.variants}
        wanted = [models[rollout.candidate], models[rollout.baseline]]
    else:
        wanted = ["@" + section for section in reversed(own)]
    if not wanted:
        raise UserError(
            "the recipe evaluates nothing", where=f"recipe {recipe.name}", next_step="write its evals section"
        )
    references = [own.get(each[1:], each) if each.startswith("@") else each for each in wanted]
    return references[0], references[1] if len(references) > 1 else ""


def _model(name: str | None) -> str:
    """A model as a rollout knows it: an artifact's id, or a folder's absolute path."""
    if not name:
        return ""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _target(text: str) -> Target:
    for index, letter in enumerate(text):
        if letter in "<>":
            try:
                return parse_target(text[:index].strip(), text[index:])
            except ValueError as error:
                raise UserError(str(error), where=f"--target {text}", next_step="'arc_easy.acc >= 0.3'") from None
    raise UserError("compares nothing", where=f"--target {text}", next_step="write it as 'arc_easy.acc >= 0.3'")


def _margin(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise UserError(
            "reads SUITE=MARGIN", where=f"--not-worse {text}", next_step="for example arc_easy=0.02"
        ) from None
