"""Arguments of the commands on jobs and clusters. Light: argparse only, loaded with every command line."""

from __future__ import annotations

from argparse import ArgumentParser

from pipelines.commands.common_arguments import as_json, count, repeated

DEFAULT_CLUSTER = "local"


def submit(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's YAML file, or the name of a shipped one")
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the Ray dashboard, for example http://127.0.0.1:8265; default: the local cluster",
    )
    kubernetes(parser)
    repeated(parser, "--set", "KEY=VALUE", "overrides", "change a key of the recipe")
    parser.add_argument("--store", metavar="URL", help="where artifacts live, instead of the recipe's `store`")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--until", metavar="STAGE", help="stop after this stage")
    group.add_argument("--only", metavar="STAGE", help="run this stage alone; its inputs must be published")
    parser.add_argument(
        "--force", metavar="STAGE", action="append", default=[], help="make it anew although it is published"
    )
    parser.add_argument(
        "--working-dir",
        metavar="DIR",
        help="the code that travels; default: the current folder, on Kubernetes none but the image's",
    )
    parser.add_argument("--no-code", action="store_true", help="send the recipe alone: the code is in the image")
    repeated(parser, "--env", "NAME=VALUE", "env", "a variable of the job; secrets are refused")
    parser.add_argument(
        "--driver-cpus",
        metavar="N",
        type=count,
        default=0,
        help="CPUs that the job's own process reserves: it may then run on a worker node",
    )
    parser.add_argument("--follow", action="store_true", help="show its log to the end; the exit code is the job's")
    parser.add_argument(
        "--retries",
        metavar="N",
        type=count,
        default=2,
        help="with --follow: further attempts where the infrastructure failed, not the run; default: 2 (on Kubernetes"
        " for a shared cluster; one of the job's own: `jobs.retries` of the profile)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what would be sent")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    as_json(parser)


def kubernetes(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--kubernetes", metavar="PROFILE", help="on Kubernetes: dev, gpu, or a profile's .yaml file of your own"
    )
    repeated(parser, "--profile-set", "KEY=VALUE", "profile_overrides", "change a key of the profile")


def _where(parser: ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="the Ray dashboard; default: the local cluster")
    kubernetes(parser)
    parser.add_argument("--store", metavar="URL", help="ask the store instead: also for clusters that are gone")


def _job(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="a job's id, its beginning, or a recipe's name (the newest)")
    _where(parser)


def jobs_list(parser: ArgumentParser) -> None:
    _where(parser)
    as_json(parser)


def jobs_logs(parser: ArgumentParser) -> None:
    _job(parser)
    parser.add_argument("--follow", action="store_true", help="on to the end; the exit code is the job's")


def jobs_stop(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="a job's id, its beginning, or a recipe's name (the newest)")
    parser.add_argument("--address", metavar="URL", help="the Ray dashboard; default: the local cluster")
    kubernetes(parser)


def jobs_why(parser: ArgumentParser) -> None:
    _job(parser)
    as_json(parser)


def cluster_up(parser: ArgumentParser) -> None:
    parser.add_argument("--nodes", metavar="N", type=count, default=3, help="with the head; default: 3")
    parser.add_argument("--cpus", metavar="N", type=count, default=4, help="logical CPUs of each node; default: 4")
    parser.add_argument(
        "--object-store-bytes",
        metavar="N",
        type=count,
        default=256 << 20,
        help="shared memory of each; default: 256 MiB",
    )
    _name(parser)
    as_json(parser)


def cluster_status(parser: ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="any Ray cluster's dashboard; default: the local cluster")
    _name(parser)
    as_json(parser)


def cluster_scale(parser: ArgumentParser) -> None:
    parser.add_argument("group", metavar="GROUP", help="a group of nodes; a local cluster has `workers`")
    parser.add_argument("bounds", metavar="MIN:MAX", help="or one number for both")
    _name(parser)


def cluster_down(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask, also where jobs run")
    _name(parser)


def _name(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="NAME", help=f"of a local cluster; default: the only one, or {DEFAULT_CLUSTER}"
    )


def bundle(parser: ArgumentParser) -> None:
    parser.add_argument("profile", metavar="PROFILE", help="dev, gpu, or a .yaml file of your own")
    parser.add_argument("recipes", metavar="RECIPE", nargs="*", help="recipes that are to run there")
    parser.add_argument(
        "--check", metavar="FOLDER", help="which pieces are not in this folder; exit 1 where any is not"
    )
    repeated(parser, "--set", "KEY=VALUE", "overrides", "change a key of the profile")
    as_json(parser)


def manifests(parser: ArgumentParser) -> None:
    parser.add_argument("profile", metavar="PROFILE", help="dev, gpu, or a .yaml file of your own")
    parser.add_argument("--serve", metavar="RECIPE", help="the RayService of this recipe, in place of the platform")
    repeated(parser, "--set", "KEY=VALUE", "overrides", "change a key of the profile")
