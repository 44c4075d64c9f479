"""`raymill bundle`: what a site without a network must carry in for a recipe, and whether a folder has it all."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.progress import table
from cluster.secrecy import leaves
from k8s.bundle import Piece, missing, pieces_of_platform
from k8s.cluster_profile import load_profile
from pipelines.recipe import dump_recipe, load_recipe

HUB = "hf://"
ELSEWHERE = (HUB, "http://", "https://", "s3://")


def bundle(arguments: Namespace) -> int:
    """List the pieces; with ``--check FOLDER`` say which are not there, and exit 1 where any is missing."""
    profile = load_profile(arguments.profile, arguments.overrides)
    pieces = pieces_of_platform(profile)
    for path in arguments.recipes:
        pieces += pieces_of_recipe(path, profile.store)
    pieces = list(dict.fromkeys(pieces))
    if arguments.check is None:
        _print(arguments, [piece.row() for piece in pieces])
        return 0
    folder = Path(arguments.check)
    if not folder.is_dir():
        raise UserError("is not a folder", where=f"--check {folder}", next_step="name the folder with the bundle")
    lacking = missing(pieces, folder)
    _print(arguments, [piece.row() for piece in lacking])
    print(f"{len(pieces) - len(lacking)} of {len(pieces)} pieces are in {folder}", file=sys.stderr)
    return 1 if lacking else 0


def _print(arguments: Namespace, rows: list[dict[str, str]]) -> None:
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print(table(rows))


def pieces_of_recipe(path: str, store: str = "") -> list[Piece]:
    """The models, data sets and benchmarks that a recipe would fetch from elsewhere.

    A recipe that reads from its store's bucket and its nodes alone has none.

    Args:
        store: where artifacts are to live at the site.
    """
    bucket = re.match(r"s3://[^/]+/", f"{store}/")
    own = bucket.group() if bucket else "no bucket"
    recipe = load_recipe(path)
    plain = {key: value for key, value in dump_recipe(recipe).items() if key in recipe.written}
    found = [
        _of_reference(where, text)
        for where, text in leaves(plain)
        if text.startswith(ELSEWHERE) and not text.startswith(own) and where != "store"
    ]
    evals: dict[str, Any] = plain.get("evals", {})
    if evals.get("benchmarks") == "hub":
        suites = ", ".join(str(each) for each in evals.get("suites", []))
        found.append(
            Piece("benchmarks", suites, f"raymill benchmarks mirror DEST, then evals.benchmarks: DEST; {path}")
        )
    return found


def _of_reference(where: str, text: str) -> Piece:
    section, *keys = where.split(".")
    kind = "data set" if section == "corpus" or "data" in keys else "model"
    if not text.startswith(HUB):
        return Piece("address", text, f"serve it inside, and change {where}")
    return Piece(kind, text.removeprefix(HUB).removeprefix("datasets/"), f"copy it into the store, and change {where}")
