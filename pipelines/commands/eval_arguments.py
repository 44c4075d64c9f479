"""The arguments of the commands that evaluate. Light: argparse only, loaded with every command line."""

from __future__ import annotations

from argparse import ArgumentParser

from pipelines.commands.common_arguments import count, repeated, store


def evaluate(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder, an artifact's id or stage name, organisation/name on the Hub, or the URL of a served model",
    )
    parser.add_argument("--base", metavar="MODEL", help="an adapter's base model; default: the one it was trained on")
    repeated(parser, "--suite", "TASK", "suites", "an lm-eval task, group or tag, or one of --tasks")
    parser.add_argument("--preset", metavar="NAME", help="leaderboard or bias, in place of --suite and --shots")
    parser.add_argument("--tasks", metavar="FOLDER", help="task files of your own, in lm-eval's YAML")
    parser.add_argument(
        "--benchmarks",
        metavar="PLACE",
        help="sample, hub, or a mirror (a folder or s3://); default: RAYMILL_BENCHMARKS",
    )
    parser.add_argument("--shots", metavar="N", type=count, help="worked examples before each question")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--limit", metavar="N", type=count, help="only the first N questions of each task")
    group.add_argument("--sample", metavar="N", type=count, help="N random questions of each suite, with honest errors")
    parser.add_argument("--seed", metavar="N", type=count, help="of the sample and of the worked examples")
    parser.add_argument("--batch-size", metavar="N", type=count, help="sequences a forward pass")
    parser.add_argument("--workers", metavar="N", type=count, help="copies of the model that answer in parallel")
    parser.add_argument("--backend", choices=("transformers", "vllm"), help="what runs the model")
    parser.add_argument(
        "--share-prefixes",
        action="store_true",
        help="compute what prompts begin with in common once: faster, equal within 1e-4 (transformers)",
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="of a URL: the served model's tokenizer")
    parser.add_argument("--model-name", metavar="NAME", help="of a URL: which of its models; default: the only one")
    parser.add_argument(
        "--variant", metavar="NAME", help="of a Raymill URL: ask this variant alone (needs a key of scope admin)"
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=count,
        help="of a URL: tokens of the longest prompt and answer, where the server takes fewer than the model could",
    )
    parser.add_argument(
        "--requests", metavar="N", type=count, help="of a URL: how many requests are in flight at a time (default: 16)"
    )
    repeated(parser, "--set", "KEY=VALUE", "overrides", "any key of a recipe's `evals`")
    store(parser)
    parser.add_argument("--address", metavar="ADDRESS", help="of Ray: local (the default), auto or host:port")
    parser.add_argument("--force", action="store_true", help="evaluate anew although the result is published")
    parser.add_argument("--json", action="store_true", help="results.json on stdout, logs on stderr")


def mirror(parser: ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST", help="a folder or s3://bucket/prefix")
    repeated(parser, "--suite", "TASK", "suites", "whose datasets (default: ARC, MMLU and TruthfulQA)")
    parser.add_argument("--preset", metavar="NAME", help="the datasets of leaderboard or bias as well")
    parser.add_argument("--tasks", metavar="FOLDER", help="task files of your own, which --suite may name")
    parser.add_argument(
        "--from",
        metavar="PLACE",
        dest="source",
        default="hub",
        help="hub, a folder in its layout, or a mirror on s3:// (default: hub)",
    )
