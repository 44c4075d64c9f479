"""`raymill eval`: a model's scores, without a recipe."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from argparse import Namespace
from typing import Any

from cluster import interrupt
from cluster.artifact import Artifact, load_artifact, read_json
from cluster.config import Document, apply_overrides, validate
from cluster.errors import UserError
from cluster.progress import Progress, table
from cluster.session import ClusterConfig, connect
from cluster.stage import Stage, execute, identify
from cluster.store import Store, open_store
from evals.config import STAGE, EvalsConfig


def evaluate(arguments: Namespace) -> int:
    """Evaluate one model; scores last, on stdout. Exit 3 where an endpoint died and the scores are of a part."""
    config = settings_of(arguments)
    store = open_store(arguments.store)
    store.check_writable()
    with contextlib.redirect_stdout(sys.stderr):  # libraries print there too; standard output is for the result
        artifact = _evaluate(arguments, config, store)
    results, usage = (read_json(store, artifact, name) for name in ("results.json", "usage.json"))
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        print("\n".join(["", *summary(store, artifact, results, usage)]))
    return 3 if results.get("unanswered") else 0


def settings_of(arguments: Namespace) -> EvalsConfig:
    """The evaluation's settings from the command line; ``--set`` reaches every key.

    Raises:
        UserError: a value makes no sense, or a task is unknown.
    """
    named = {
        "preset": arguments.preset,
        "tasks_folder": arguments.tasks,
        "suites": arguments.suites or None,
        "benchmarks": arguments.benchmarks,
        "num_fewshot": arguments.shots,
        "limit": arguments.limit,
        "sample": arguments.sample,
        "seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "backend": arguments.backend,
        "share_prefixes": arguments.share_prefixes or None,
        "workers": arguments.workers,
    }
    data: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    document = apply_overrides(Document(data, "raymill eval"), arguments.overrides)
    return validate(
        EvalsConfig, document, "`raymill eval --help` lists its options, docs/evaluation.md says what they mean"
    )


def _evaluate(arguments: Namespace, config: EvalsConfig, store: Store) -> Artifact:
    progress = Progress()
    stage, config, inputs, name = _work(arguments, config, store)
    identity = identify(stage, config, {role: each.fingerprint for role, each in inputs.items()}, name)
    with contextlib.ExitStack() as stack:
        needs_ray = not _is_url(arguments.model)
        if needs_ray and (arguments.force or load_artifact(store, identity.id) is None):
            # Ray starts a process for each CPU that is declared: as many as there are workers, and no more.
            cluster = ClusterConfig(address=arguments.address or "local", logical_cpus=config.workers)
            stack.enter_context(connect(cluster, progress.say))
            interrupt.install()  # Ray has put handlers of its own in place
        with progress.track("eval") as tracker:
            done = execute(stage, identity, config, inputs, store, tracker, force=arguments.force)
    if done.cached:
        progress.say(f"[eval] {done.artifact.id} is published already; --force asks the model anew")
    return done.artifact


def _work(
    arguments: Namespace, config: EvalsConfig, store: Store
) -> tuple[Stage, EvalsConfig, dict[str, Artifact], str]:
    """What to run for the model that was named: the stage, its settings, its inputs, and the artifact's name."""
    if _is_url(arguments.model):
        from evals.served import SERVED_STAGE, ServedConfig

        if arguments.base:
            raise UserError("a served model has its base already", where="--base", next_step="leave it out")
        if config.share_prefixes:
            raise UserError(
                "what an endpoint computes once is its own affair", where="share_prefixes", next_step="leave it out"
            )
        own = (arguments.model_name, arguments.tokenizer, arguments.requests, arguments.variant, arguments.context)
        served = ServedConfig.of(config, arguments.model, *own)
        return SERVED_STAGE, served, {}, _name(f"{served.model}-{served.variant}".rstrip("-"))
    for option, given in (
        ("--tokenizer", arguments.tokenizer),
        ("--model-name", arguments.model_name),
        ("--variant", arguments.variant),
        ("--context", arguments.context),
    ):
        if given:
            raise UserError("is for a served URL", where=option, next_step="leave it out")
    from evals.sources import ModelSource, find_model

    source = find_model(store, arguments.model, arguments.base)
    if isinstance(source, ModelSource):
        inputs = {"model": source.model} | ({"base": source.base} if source.base else {})
        return STAGE, config, inputs, _name(source.model.name)
    from evals.given import GIVEN_STAGE, GivenConfig
    from evals.tokenizer import require_tokenizer

    require_tokenizer(source.base)
    return GIVEN_STAGE, GivenConfig.of(config, source), {}, _name(source.name)


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _name(model: str) -> str:
    return "evals-" + (re.sub(r"[^\w.]+", "-", model).strip("-.") or "model")


def summary(store: Store, artifact: Artifact, results: dict[str, Any], usage: dict[str, Any]) -> list[str]:
    """The scores as text, what they took, and where everything else is."""
    from evals.contamination import columns

    sets = {name: found["metrics"] for name, found in results.get("sets", {}).items()}
    seen = results.get("contamination")
    rows = [
        {
            "task": task if task in sets else f"{task} ({results['benchmarks']})",
            "metric": metric,
            "score": figures["score"],
            "stderr": figures.get("stderr"),
            "95 % interval": "{:.4f} to {:.4f}".format(*figures["interval_95"]) if figures["interval_95"] else "",
            "chance": figures.get("chance"),
            "questions": figures["n"],
            **(columns(seen, task) if seen else {}),
        }
        for task, metrics in (results["tasks"] | _ungrouped(results) | sets).items()
        for metric, figures in metrics.items()
    ]
    lines = [table(rows)] if rows else []
    if results.get("unanswered"):
        lines += ["", f"PARTIAL: {results['unanswered']}"]
    if results["truncated_requests"]:
        lines += [
            "",
            f"{results['truncated_requests']:,} of {results['requests']:,} requests were longer than the model's"
            f" context of {results['context_tokens']:,} tokens and lost the beginning of their prompt",
        ]
    return [*lines, "", _took(usage), f"{artifact.id}: {store.uri(artifact.key('report.html'))}"]


def _took(usage: dict[str, Any]) -> str:
    read, wrote = (sum(each[key] for each in usage["tasks"].values()) for key in ("input_tokens", "output_tokens"))
    cost = f", cost {usage['cost']:,.4g}" if any(usage["prices"].values()) else ""
    return f"{usage['seconds']:,.1f} s, {read:,} tokens read, {wrote:,} written{cost}"


def _ungrouped(results: dict[str, Any]) -> dict[str, Any]:
    """Tasks of suites that have no score of their own (a group that its authors do not aggregate)."""
    return {
        task: scores
        for suite, tasks in results["subtasks"].items()
        if not results["tasks"].get(suite)
        for task, scores in tasks.items()
    }
