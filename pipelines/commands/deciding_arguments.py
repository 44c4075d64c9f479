"""The arguments of `raymill compare`, `gate`, `judge` and `review`. Light: argparse only, loaded with every command."""

from __future__ import annotations

from argparse import ArgumentParser


def _store(parser: ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", default="./raymill-store", help="default: ./raymill-store")


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")


def _page(parser: ArgumentParser) -> None:
    parser.add_argument("--page", metavar="FILE", help="write the report to look at to this .html file")


def compare(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation's id, name or folder, or a model that was evaluated")
    parser.add_argument("b", metavar="B", help="the same; the verdict says what B is, compared with A")
    parser.add_argument(
        "--metric",
        metavar="SUITE=METRIC",
        dest="metrics",
        action="append",
        default=[],
        help="judge a suite by this metric instead of the usual one; may be repeated",
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of any false verdict (default: 0.05)")
    parser.add_argument("--any-settings", action="store_true", help="although the two were not asked alike")
    parser.add_argument("--tasks", action="store_true", help="print the tasks of a group (MMLU's subjects) as well")
    _page(parser)
    _store(parser)
    _json(parser)
