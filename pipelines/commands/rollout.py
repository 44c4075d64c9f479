"""`raymill rollout`: begin, follow and end the move of users to another variant. Needs the store, not Ray."""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from cluster.config import Document, apply_overrides, validate
from cluster.errors import UserError
from pipelines.commands.common_arguments import DEFAULT_STORE
from pipelines.commands.deployment import Target, target_of
from pipelines.recipe import load_recipe
from serving.control import operations, status
from serving.control.changes import require_no_rollout, with_rollout
from serving.control.journal import Journal
from serving.control.names import who
from serving.control.state import ServingState
from serving.rollout.config import RolloutConfig

POLL_SECONDS = 1.0
REASON_WIDTH = 120


def start(arguments: Namespace) -> int:
    """Begin a rollout, after its gate; say what it can see and how long it takes."""
    from serving.rollout.gate import required_decision
    from serving.rollout.plan import plan_rollout
    from serving.rollout.view import plan_text

    config = _config_of(arguments)
    target = target_of(arguments)
    state = target.journal.current()
    require_no_rollout(state)
    decision = required_decision(target.store, state, config)
    with_rollout(state, config, decision)
    operations.require_working(target.journal, config)
    print(plan_text(plan_rollout(config)), flush=True)
    allowed = f"evaluation decision {decision} says pass" if decision else "no evaluation decision is required"
    if arguments.dry_run:
        print(f"{allowed}; nothing was begun (--dry-run)")
        return 0
    reason = arguments.reason or f"rollout of {config.candidate} against {config.baseline}"
    state, line = target.change(
        lambda: operations.start_rollout(target.journal, config, decision, by=who(), reason=reason)
    )
    assert state.rollout is not None
    print(f"rollout {state.rollout.id} begins ({allowed}): {line}\nfollow it with `raymill rollout watch`")
    return 0


def _config_of(arguments: Namespace) -> RolloutConfig:
    """The settings: the recipe's, with the command line's in their place."""
    data: dict[str, Any] = {}
    name = "raymill rollout start"
    if arguments.recipe:
        recipe = load_recipe(arguments.recipe)
        arguments.store = arguments.store or recipe.store
        if recipe.serving.rollout is not None:
            data = recipe.serving.rollout.model_dump(mode="json", exclude_unset=True)
        elif not arguments.candidate:
            raise UserError(
                "it has no `serving.rollout` section",
                where=arguments.recipe,
                next_step="add one with `candidate:` and `baseline:`, or give --candidate and --baseline",
            )
        name = f"{arguments.recipe}: serving.rollout"
    arguments.store = arguments.store or DEFAULT_STORE
    for key in ("candidate", "baseline", "gate"):
        if getattr(arguments, key):
            data[key] = getattr(arguments, key)
    if arguments.steps:
        data["steps"] = [_number(text, "--steps", "1,5,25,50,100") for text in arguments.steps.split(",")]
    if arguments.aa:
        data["mode"] = "aa"
    if arguments.users_per_minute is not None:
        if not 0 < arguments.users_per_minute < math.inf:
            raise UserError("must be above 0", where="--users-per-minute", next_step="estimate it; 60 is one a second")
        data["users_per_minute"] = arguments.users_per_minute
    missing = [f"--{key}" for key in ("candidate", "baseline") if key not in data]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing",
            where="raymill rollout start",
            next_step="name the two variants, or give a --recipe with a `serving.rollout` section",
        )
    return validate(RolloutConfig, apply_overrides(Document(data, name), arguments.overrides))


def _number(text: str, where: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number", where=where, next_step=f"for example {example}") from None


def weights(arguments: Namespace) -> int:
    """Split the users by hand; refused while a rollout runs."""
    target = target_of(arguments)
    wanted: dict[str, float] = {}
    for text in arguments.weights:
        name, separator, number = text.partition("=")
        if not separator or name in wanted:
            raise UserError("weights read VARIANT=WEIGHT, each variant once", where=text, next_step="base=90 tuned=10")
        wanted[name] = _number(number, text, f"{name}=90")
    reason = arguments.reason or f"weights {' '.join(arguments.weights)}"
    state, line = target.change(lambda: operations.set_weights(target.journal, wanted, by=who(), reason=reason))
    print(f"{_weights_text(state)}: {line}")
    return 0


def pause(arguments: Namespace) -> int:
    """Observe on, decide nothing."""
    return _by_hand(arguments, operations.pause, "paused by hand")


def resume(arguments: Namespace) -> int:
    """Decide again."""
    return _by_hand(arguments, operations.resume, "resumed by hand")


def promote(arguments: Namespace) -> int:
    """All users of the pair to the candidate, now."""
    return _by_hand(arguments, operations.promote, "promoted by hand")


def rollback(arguments: Namespace) -> int:
    """All users of the pair back to the baseline, now."""
    return _by_hand(arguments, operations.rollback, "rolled back by hand")


def _by_hand(arguments: Namespace, operation: Callable[..., ServingState], words: str) -> int:
    target = target_of(arguments)
    reason = arguments.reason or words
    state, line = target.change(lambda: operation(target.journal, by=who(), reason=reason))
    assert state.rollout is not None
    print(f"rollout {state.rollout.id} {words}; {_weights_text(state)}: {line}")
    return 0


def _weights_text(state: ServingState) -> str:
    return ", ".join(f"{name} {weight:.4g}" for name, weight in state.weights.items())


def show_status(arguments: Namespace) -> int:
    """Print the weights, who set them, and where the rollout stands."""
    target = target_of(arguments)
    report = _report(target)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(_text(report))
    return 0


def _report(target: Target) -> dict[str, Any]:
    state = target.journal.current()
    return {
        "deployment": target.name,
        "version": state.version,
        "changed_at": state.changed_at,
        "changed_by": state.changed_by,
        "reason": state.reason,
        "weights": state.weights,
        "rollout": _summary(target, state),
    }


def _summary(target: Target, state: ServingState) -> dict[str, Any] | None:
    """The rollout's summary: the controller's where it is of this rollout, otherwise from the recorded events."""
    if state.rollout is None:
        return None
    now = status.read(target.store, target.name) if target.endpoint else None
    if now is not None and now.rollout.get("id") == state.rollout.id:
        return now.rollout
    from serving.rollout.events import EventLog
    from serving.rollout.replay import fold
    from serving.rollout.summary import summarise

    recorded = EventLog(target.store, target.name, state.rollout.id).read()
    folded = fold(state.rollout.config, recorded.events)
    summary = summarise(state.rollout.id, folded.machine, folded.at, damaged=recorded.damaged)
    return {**summary, "status": state.rollout.status}


def _text(report: dict[str, Any]) -> str:
    from serving.rollout.view import status_text

    weights = ", ".join(f"{name} {weight:.4g}" for name, weight in report["weights"].items())
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report["changed_at"]))
    summary = report["rollout"]
    said = f"  {when} by {report['changed_by']}"
    if not summary or not summary["decision"] or report["reason"] != summary["decision"]["why"]:
        said += f": {textwrap.shorten(report['reason'], REASON_WIDTH, placeholder=' …')}"
    head = f"{report['deployment']} version {report['version']}: {weights}\n{said}\n\n"
    return head + (status_text(summary) if summary else "no rollout was started")


def watch(arguments: Namespace) -> int:
    """Show the rollout until it is over; exit code 1 if it was rolled back."""
    from serving.rollout.machine import ENDED

    target = target_of(arguments)
    live = sys.stdout.isatty() and not arguments.json
    shown = ""
    while True:
        report = _report(target)
        summary = report["rollout"]
        if summary is None:
            raise UserError("no rollout was started", where=target.name, next_step="`raymill rollout start` begins one")
        text = json.dumps(report) if arguments.json else _text(report)
        if text != shown:
            if live:
                print("\x1b[H\x1b[2J", end="")  # the table is drawn anew in the same place
            print(text, flush=True)
            if not live and not arguments.json:
                print(flush=True)
            shown = text
        if summary["status"] in ENDED:
            return int(summary["status"] == "rolled_back")
        time.sleep(POLL_SECONDS)


def history(arguments: Namespace) -> int:
    """Print every decision of a rollout, with the numbers that made it under --json."""
    from serving.rollout.decision import Decision
    from serving.rollout.replay import read_events
    from serving.rollout.view import history_text

    target = target_of(arguments)
    _, recorded = read_events(target.store, target.name, _rollout_id(target.journal, arguments))
    decisions = [Decision.decode(values) for values in recorded.decisions]
    print(json.dumps(recorded.decisions, indent=1) if arguments.json else history_text(decisions))
    return 0


def replay(arguments: Namespace) -> int:
    """Recompute every decision from the recorded events; exit code 1 if any comes out differently."""
    from serving.rollout.replay import replay_recorded
    from serving.rollout.view import history_text

    target = target_of(arguments)
    name = _rollout_id(target.journal, arguments)
    result = replay_recorded(target.store, target.name, name)
    if arguments.json:
        decisions = [decision.encode() for decision in result.decisions]
        print(json.dumps({"rollout": name, "equal": result.equal, "decisions": decisions, "damaged": result.damaged}))
        return int(not result.equal)
    print(history_text(result.decisions))
    for key in result.damaged:
        print(f"left out, damaged: {target.store.uri(key)}")
    if result.equal:
        print(f"\nall {len(result.decisions)} decisions come out as recorded, with every number")
        return 0
    numbers = ", ".join(map(str, result.differences))
    print(f"\nNOT as recorded: decisions {numbers}; `raymill rollout history` shows those that were made")
    return 1


def _rollout_id(journal: Journal, arguments: Namespace) -> str:
    if arguments.rollout:
        return str(arguments.rollout)
    state = journal.current()
    if state.rollout is None:
        raise UserError("no rollout was started", where=journal.name, next_step="`raymill rollout start` begins one")
    return state.rollout.id
