"""The arguments of `raymill compare`, `gate`, `judge` and `review`. Light: argparse only, loaded with every command."""

from __future__ import annotations

from argparse import ArgumentParser

from pipelines.commands.common_arguments import DEFAULT_STORE, as_json, repeated, store


def _page(parser: ArgumentParser) -> None:
    parser.add_argument("--page", metavar="FILE", help="write the report to look at to this .html file")


def compare(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation's id, name or folder, or a model that was evaluated")
    parser.add_argument("b", metavar="B", help="the same; the verdict says what B is, compared with A")
    repeated(parser, "--metric", "SUITE=METRIC", "metrics", "judge a suite by this metric instead of the usual one")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of any false verdict (default: 0.05)")
    parser.add_argument("--any-settings", action="store_true", help="although the two were not asked alike")
    parser.add_argument("--tasks", action="store_true", help="print the tasks of a group (MMLU's subjects) as well")
    _page(parser)
    store(parser)
    as_json(parser)


def gate(parser: ArgumentParser) -> None:
    parser.add_argument(
        "candidate", metavar="CANDIDATE", nargs="?", help="its evaluation, as for compare; default: the recipe's"
    )
    parser.add_argument("baseline", metavar="BASELINE", nargs="?", help="the same of the model that it may replace")
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="take `objective.targets`, `objective.not_worse` and `store` from it; without CANDIDATE also the models of"
        " `serving.rollout`, or else the last two that it evaluates",
    )
    repeated(parser, "--target", "CONDITION", "targets", "for example 'arc_easy.acc >= 0.3'")
    examples = "for example arc_easy=0.02, mmlu.acc=0.01 or average=0.01"
    repeated(parser, "--not-worse", "SUITE=MARGIN", "margins", examples)
    parser.add_argument("--alpha", type=float, default=0.05, help="chance that a check passes wrongly (default: 0.05)")
    parser.add_argument("--measured", action="store_true", help="targets by their measured value, without its interval")
    parser.add_argument(
        "--candidate-model",
        metavar="MODEL",
        help="what was measured, where the evaluation names a URL or another place",
    )
    parser.add_argument("--baseline-model", metavar="MODEL", help="the same of the baseline")
    parser.add_argument("--dry-run", action="store_true", help="decide, and leave no decision in the store")
    _page(parser)
    parser.add_argument("--store", metavar="URL", help=f"default: the recipe's, or {DEFAULT_STORE}")
    as_json(parser)


def _two(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation, as for compare, whose answers are texts")
    parser.add_argument("b", metavar="B", help="the same of the other model")
    repeated(parser, "--suite", "NAME", "suites", "only this suite")


def judge(parser: ArgumentParser) -> None:
    _two(parser)
    parser.add_argument("--url", required=True, help="the judge: an OpenAI API; its key comes from OPENAI_API_KEY")
    parser.add_argument("--model-name", metavar="MODEL", required=True, help="what the judge is called there")
    parser.add_argument("--rubric", action="store_true", help="grade each answer alone, 1 to 5, instead of comparing")
    parser.add_argument("--criteria", metavar="TEXT", default="", help="what to look for besides, in a sentence or two")
    parser.add_argument("--votes", metavar="FILE", help="write its votes to this .jsonl file")
    parser.add_argument("--against", metavar="FILE", help="votes of people or another judge: report the agreement")
    store(parser)
    as_json(parser)


def review_export(parser: ArgumentParser) -> None:
    _two(parser)
    parser.add_argument("--sheet", metavar="FILE", required=True, help="the .csv file for reviewers; models are hidden")
    parser.add_argument("--key", metavar="FILE", required=True, help="which side is whose; not for reviewers")
    parser.add_argument("--sample", metavar="N", type=int, help="so many documents at random; default: all")
    parser.add_argument("--seed", type=int, default=1234, help="of the sample and of the sides (default: 1234)")
    store(parser)


def review_import(parser: ArgumentParser) -> None:
    parser.add_argument("sheets", metavar="SHEET", nargs="+", help="filled sheets, one a reviewer")
    parser.add_argument("--key", metavar="FILE", required=True, help="the key that export wrote")
    parser.add_argument("--votes", metavar="FILE", help="write the majority's votes to this .jsonl file")
    as_json(parser)
