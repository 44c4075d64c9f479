"""The arguments of `raymill rollout …`. Light: argparse only, loaded with every command line."""

from __future__ import annotations

from argparse import ArgumentParser

from pipelines.commands.arguments import change, deployment
from pipelines.commands.common_arguments import as_json, repeated


def start(parser: ArgumentParser) -> None:
    parser.add_argument("--recipe", metavar="RECIPE", help="take `serving.rollout` (and `store`) from this recipe")
    parser.add_argument("--candidate", metavar="VARIANT", help="the variant that users move to")
    parser.add_argument("--baseline", metavar="VARIANT", help="the variant that they come from")
    parser.add_argument("--steps", metavar="PERCENT,…", help="for example 1,5,25,50,100")
    parser.add_argument("--gate", metavar="DECISION", help="newest, the id of an evaluation's decision, or none")
    parser.add_argument(
        "--aa", action="store_true", help="an A/A test: both variants have one model, nothing is promoted"
    )
    another = "another key of `serving.rollout`, for example minimum_units=500"
    repeated(parser, "--set", "KEY=VALUE", "overrides", another)
    parser.add_argument(
        "--users-per-minute",
        metavar="N",
        type=float,
        help="new users on both variants, for the expected duration (default: the recipe's, or 60)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what to expect, no more")
    change(parser)
    parser.set_defaults(store=None)


def status(parser: ArgumentParser) -> None:
    deployment(parser)
    as_json(parser)


def watch(parser: ArgumentParser) -> None:
    deployment(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON whenever something changed")


def weights(parser: ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="VARIANT=WEIGHT", nargs="+", help="for example base=90 tuned=10; relative to each other"
    )
    change(parser)


def history(parser: ArgumentParser) -> None:
    parser.add_argument("--rollout", metavar="ID", help="an earlier rollout; default: the last one")
    status(parser)
