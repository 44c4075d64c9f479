"""The arguments of the commands on a deployment. Light: argparse only, loaded with every command line."""

from __future__ import annotations

from argparse import ArgumentParser

from pipelines.commands.common_arguments import as_json, count, repeated, store


def deployment(parser: ArgumentParser) -> None:
    """Which deployment, in which store; and why, for commands that change it see :func:`change`."""
    parser.add_argument("--deployment", metavar="NAME", help="the deployment; default: the only one")
    store(parser)


def change(parser: ArgumentParser) -> None:
    """A change of a deployment, with a reason for its journal."""
    deployment(parser)
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, kept with the change")


def status(parser: ArgumentParser) -> None:
    deployment(parser)
    parser.add_argument(
        "--history", metavar="N", type=count, nargs="?", const=20, help="instead, its last changes: who, when, why"
    )
    as_json(parser)


def undeploy(parser: ArgumentParser) -> None:
    change(parser)
    parser.add_argument(
        "--force", action="store_true", help="remove what is left of it, where its controller is dead and stays so"
    )


def scale(parser: ArgumentParser) -> None:
    parser.add_argument("variant", metavar="VARIANT", help="a variant; those that share its servers scale with it")
    parser.add_argument(
        "--replicas", metavar="N|MIN:MAX", required=True, help="vLLM servers; MIN:MAX follows the requests, 0:1 sleeps"
    )
    change(parser)


def limits(parser: ArgumentParser) -> None:
    repeated(parser, "--set", "KEY=VALUE", "overrides", "a key of `serving.limits`, for example max_tokens=512")
    as_json(parser)
    change(parser)


def shadow(parser: ArgumentParser) -> None:
    parser.add_argument("variant", metavar="VARIANT", nargs="?", help="the variant that gets the copies")
    parser.add_argument("--share", metavar="SHARE", type=float, default=0.1, help="of the requests (default: 0.1)")
    parser.add_argument("--off", action="store_true", help="no copies any more")
    change(parser)


def _key_limits(parser: ArgumentParser) -> None:
    parser.add_argument("--requests-per-minute", metavar="N", type=count, help="over all gateways together")
    parser.add_argument("--tokens-per-minute", metavar="N", type=count, help="prompt and answer together")
    parser.add_argument("--concurrency", metavar="N", type=count, help="requests in flight at a time")


def keys_create(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="whom the key is for")
    parser.add_argument(
        "--scope",
        dest="scopes",
        choices=("call", "admin"),
        action="append",
        default=[],
        help="call models (the default), or admin calls as well; may be repeated",
    )
    _key_limits(parser)
    repeated(parser, "--model", "MODEL", "models", "may call only this")
    change(parser)


def keys_list(parser: ArgumentParser) -> None:
    deployment(parser)
    as_json(parser)


def keys_revoke(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="its id, or a name that only one key has")
    change(parser)


def keys_limit(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="its id, or a name that only one key has")
    _key_limits(parser)
    change(parser)


def keys_require(parser: ArgumentParser) -> None:
    parser.add_argument("required", choices=("on", "off"), help="whether callers need a key")
    change(parser)
