"""`raymill`: a table from command to function. Nothing heavy is imported until a command runs.

Exit codes: 0 ok, 1 the run failed, 2 the user's mistake, 3 the infrastructure's, 4 a gate has no evidence, 130
interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from cluster.errors import RaymillError, UserError, causes, explain_os_error, explain_ray_error, find_raymill_error
from pipelines.commands import arguments as on
from pipelines.commands import deciding_arguments as deciding
from pipelines.commands import eval_arguments
from pipelines.commands import job_arguments as jobs
from pipelines.commands import rollout_arguments as rollout
from pipelines.commands.common_arguments import repeated, store

Arguments = argparse.Namespace
AddArguments = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Command:
    """One command: its line in the help, the function that does it (``module:name``), and its arguments.

    A group (``raymill keys``) has commands of its own in place of the last two.
    """

    name: str
    help: str
    function: str = ""
    arguments: AddArguments | None = None
    commands: tuple[Command, ...] = ()


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's YAML file, or the name of a shipped one")
    _overrides(parser)


def _overrides(parser: argparse.ArgumentParser) -> None:
    repeated(parser, "--set", "KEY=VALUE", "overrides", "change a key of the recipe, for example pretrain.tokens=1e6")
    parser.add_argument("--store", metavar="URL", help="where artifacts live, instead of the recipe's `store`")
    parser.add_argument("--address", metavar="ADDRESS", help="local, auto or host:port, instead of `cluster.address`")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout, logs on stderr")


def _run(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--until", metavar="STAGE", help="stop after this stage")
    group.add_argument("--only", metavar="STAGE", help="run this stage alone; its inputs must be published")
    parser.add_argument(
        "--force", metavar="STAGE", action="append", default=[], help="make it anew although it is published"
    )
    _json(parser)


def _tune(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--best", metavar="FILE", help="where the best trial's recipe goes; default: NAME-best.yaml")
    _json(parser)


def _plan(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument(
        "--examples",
        metavar="N",
        type=int,
        default=0,
        help="show N examples of finetune and align token by token, and which carry loss",
    )
    _json(parser)


def _new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the recipe's name; NAME.yaml is written")
    parser.add_argument("--profile", action="store_true", help="a profile for Kubernetes in place of a recipe")


def _in_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="ARTIFACT", nargs="?", help="an id, a fingerprint's beginning or a stage")
    store(parser)
    _json(parser)


def _gc(parser: argparse.ArgumentParser) -> None:
    store(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    _json(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets", metavar="RECIPE|MODEL", nargs="+", help="a recipe, or models: folders, or artifact ids in --store"
    )
    parser.add_argument("--port", type=int, help="the public port, instead of `serving.port` (0: any free one)")
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, kept with the change")
    parser.add_argument(
        "--take-over", action="store_true", help="also where another cluster serves it: with its state, in its place"
    )
    _overrides(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of checkpoints, one of them, an unfinished artifact's folder, or a Hugging Face model",
    )
    parser.add_argument("destination", metavar="DESTINATION", help="a new folder")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="copy this tokenizer's files beside the model")
    _json(parser)


def _merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter's folder, artifact id or stage")
    parser.add_argument("destination", metavar="DESTINATION", help="a new folder")
    parser.add_argument("--base", metavar="MODEL", help="its base, where that is not the one it was trained on")
    store(parser)
    _json(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="look at the Ray cluster with this dashboard instead")
    jobs.kubernetes(parser)
    store(parser)
    _json(parser)


_ROLLOUT = "pipelines.commands.rollout"
_JOBS, _CLUSTER = "pipelines.commands.jobs", "pipelines.commands.cluster"

COMMANDS = (
    Command("new", "write a commented starter recipe, or a profile for Kubernetes", "pipelines.commands.new:new", _new),
    Command("plan", "the resolved recipe, what is cached and what changed", "pipelines.commands.run:plan", _plan),
    Command("run", "make everything a recipe names", "pipelines.commands.run:run", _run),
    Command("tune", "search for the recipe's best values", "pipelines.commands.tune:tune", _tune),
    Command(
        "submit",
        "run a recipe on a cluster: plan, confirm, apply; again: attach",
        "pipelines.commands.submit:submit",
        jobs.submit,
    ),
    Command(
        "jobs",
        "what was submitted",
        commands=(
            Command("list", "every job of a cluster, or every run of a store", f"{_JOBS}:show_list", jobs.jobs_list),
            Command("logs", "what a job said, or says", f"{_JOBS}:logs", jobs.jobs_logs),
            Command("stop", "end a job; what it published stays", f"{_JOBS}:stop", jobs.jobs_stop),
            Command("why", "why a job waits, or failed", f"{_JOBS}:why", jobs.jobs_why),
        ),
    ),
    Command(
        "manifests",
        "what a profile needs on Kubernetes, or a served recipe, as YAML",
        "pipelines.commands.manifests:manifests",
        jobs.manifests,
    ),
    Command(
        "bundle",
        "what a site without a network must carry in",
        "pipelines.commands.bundle:bundle",
        jobs.bundle,
    ),
    Command(
        "cluster",
        "a cluster of several nodes on this machine",
        commands=(
            Command("up", "start it, with token authentication", f"{_CLUSTER}:up", jobs.cluster_up),
            Command("status", "nodes, resources, jobs, serving", f"{_CLUSTER}:status", jobs.cluster_status),
            Command("scale", "how many nodes a group has", f"{_CLUSTER}:scale", jobs.cluster_scale),
            Command("down", "end it", f"{_CLUSTER}:down", jobs.cluster_down),
        ),
    ),
    Command("eval", "a model's scores, without a recipe", "pipelines.commands.eval:evaluate", eval_arguments.evaluate),
    Command(
        "benchmarks",
        "the sets of questions",
        commands=(
            Command(
                "mirror",
                "copy them to a folder or bucket, for clusters without a network",
                "pipelines.commands.benchmarks:mirror",
                eval_arguments.mirror,
            ),
        ),
    ),
    Command(
        "compare",
        "which of two evaluated models is better, and how sure that is",
        "pipelines.commands.compare:compare",
        deciding.compare,
    ),
    Command(
        "gate",
        "may this model replace that one: a decision for rollouts",
        "pipelines.commands.gate:gate",
        deciding.gate,
    ),
    Command("judge", "a model compares two models' answers", "pipelines.commands.judge:judge", deciding.judge),
    Command(
        "review",
        "people compare two models' answers, without knowing whose they are",
        commands=(
            Command("export", "write a sheet to fill in", "pipelines.commands.review:export", deciding.review_export),
            Command("import", "count its votes", "pipelines.commands.review:read_back", deciding.review_import),
        ),
    ),
    Command("serve", "deploy a recipe's variants, or models, until Ctrl-C", "pipelines.commands.serve:serve", _serve),
    Command(
        "undeploy", "let a deployment go, answers in flight first", "pipelines.commands.undeploy:undeploy", on.undeploy
    ),
    Command(
        "rollout",
        "move the users to another variant, as far as the evidence allows",
        commands=(
            Command("start", "begin; says what it can see and how long it takes", f"{_ROLLOUT}:start", rollout.start),
            Command("status", "weights, and where the rollout stands", f"{_ROLLOUT}:show_status", rollout.status),
            Command("watch", "the same, live, until it is over", f"{_ROLLOUT}:watch", rollout.watch),
            Command("weights", "split the users by hand", f"{_ROLLOUT}:weights", rollout.weights),
            Command("pause", "observe on, decide nothing", f"{_ROLLOUT}:pause", on.change),
            Command("resume", "decide again", f"{_ROLLOUT}:resume", on.change),
            Command("promote", "all users to the candidate, now", f"{_ROLLOUT}:promote", on.change),
            Command("rollback", "all users back to the baseline, now", f"{_ROLLOUT}:rollback", on.change),
            Command("history", "every decision, with its reason", f"{_ROLLOUT}:history", rollout.history),
            Command("replay", "decide again from the recorded events", f"{_ROLLOUT}:replay", rollout.history),
        ),
    ),
    Command("status", "what is served now, and who changed it", "pipelines.commands.status:show", on.status),
    Command("scale", "how many servers a variant has", "pipelines.commands.scale:scale", on.scale),
    Command(
        "keys",
        "API keys: made, listed, limited, revoked",
        commands=(
            Command("create", "make one; its secret is shown once", "pipelines.commands.keys:create", on.keys_create),
            Command("list", "every key, without secrets", "pipelines.commands.keys:list_keys", on.keys_list),
            Command("limit", "change what one may use", "pipelines.commands.keys:limit", on.keys_limit),
            Command("revoke", "end one at once", "pipelines.commands.keys:revoke", on.keys_revoke),
            Command("require", "whether callers need one", "pipelines.commands.keys:require", on.keys_require),
        ),
    ),
    Command("limits", "what one request may ask for", "pipelines.commands.scale:limits", on.limits),
    Command("shadow", "copy some requests to a variant, unseen", "pipelines.commands.scale:shadow", on.shadow),
    Command("show", "artifacts and runs; one artifact's record and lineage", "pipelines.commands.show:show", _in_store),
    Command("verify", "re-check checksums of one artifact or all", "pipelines.commands.show:verify", _in_store),
    Command("gc", "remove abandoned tries over a day old", "pipelines.commands.show:gc", _gc),
    Command(
        "convert",
        "a sharded checkpoint to a Hugging Face folder, or back",
        "pipelines.commands.convert:convert",
        _convert,
    ),
    Command("merge", "an adapter into its base, as one model", "pipelines.commands.merge:merge", _merge),
    Command(
        "doctor", "what this machine has, what is missing, how to fix it", "pipelines.commands.doctor:doctor", _doctor
    ),
)


class _Parser(argparse.ArgumentParser):
    """Argument mistakes as one line, with the nearest command."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, where=self.prog, next_step=f"`{self.prog} --help` lists what it takes")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="raymill", description="From raw text to a language model in production, on Ray.")
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        _add(subparsers, command)
    return parser


def _add(subparsers: Any, command: Command) -> None:
    parser = subparsers.add_parser(command.name, help=command.help, description=command.help)
    if command.commands:
        inner = parser.add_subparsers(dest="subcommand", metavar="COMMAND", parser_class=_Parser, required=True)
        for each in command.commands:
            _add(inner, each)
    elif command.arguments:
        command.arguments(parser)
        parser.set_defaults(function=command.function)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit; see the module's text for the codes."""
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`raymill show | head`): point stdout elsewhere so that exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last place: every error becomes a message and a code
        return _report(error)


def _dispatch(argv: list[str]) -> int:
    _suggest_command(argv)
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(f"raymill {version('raymill')}")
        return 0
    if not arguments.command:
        parser.print_help()
        return 0
    from cluster import interrupt

    interrupt.install()
    module, _, name = arguments.function.partition(":")
    code: int = getattr(importlib.import_module(module), name)(arguments)
    return code


def _suggest_command(argv: list[str]) -> None:
    names = [command.name for command in COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        near = difflib.get_close_matches(argv[0], names, n=1)
        raise UserError(
            f"no command {argv[0]!r}" + (f"; did you mean {near[0]}?" if near else ""),
            where="raymill",
            next_step=f"commands: {', '.join(names)}",
        )


def _report(error: Exception) -> int:
    known = find_raymill_error(error) or _find_explained(error)
    if known is None or os.environ.get("RAYMILL_DEBUG"):
        traceback.print_exception(error)
    if known is None:
        print(
            f"error: {error or type(error).__name__}\n  this is a defect in Raymill: please report it", file=sys.stderr
        )
        return 1
    print(f"error: {known}", file=sys.stderr)
    return known.exit_code


def _find_explained(error: Exception) -> RaymillError | None:
    """A full disk, a forbidden place or a lost node anywhere in the chain, also in a worker."""
    explained = (
        explain_os_error(cause) if isinstance(cause, OSError) else explain_ray_error(cause) for cause in causes(error)
    )
    return next((found for found in explained if found), None)


if __name__ == "__main__":
    main()
