"""A Ray dashboard's address, and the token that this machine has for it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import UserError
from cluster.local_cluster import cluster_at
from cluster.session import RAY_TOKEN_FILE


def normalise(address: str) -> str:
    """The dashboard's URL without a trailing slash.

    Raises:
        UserError: it is none.
    """
    text = address if "://" in address else f"http://{address}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "is not the URL of a Ray dashboard",
            where=f"--address {address}",
            next_step="for example http://127.0.0.1:8265; `raymill cluster status` shows local ones",
        )
    return text.rstrip("/")


def token_for(address: str) -> str | None:
    """The token to show an address: what the environment names, a local cluster's own, or Ray's usual file."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = token_file(address)
    return file.read_text(encoding="utf-8").strip() if file else None


def token_file(address: str) -> Path | None:
    """The file with the token for an address, where it is in one.

    Raises:
        UserError: the environment names one that is not there.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    named, local = os.environ.get("RAY_AUTH_TOKEN_PATH"), cluster_at(address)
    if named and not Path(named).is_file():
        raise UserError("no such file", where=f"RAY_AUTH_TOKEN_PATH={named}", next_step="correct it, or unset it")
    places = (named, local.token_file if local else None, str(RAY_TOKEN_FILE))
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def others_may_read(file: Path) -> bool:
    """Whether users of this machine other than its owner may read a file."""
    return bool(file.stat().st_mode & 0o077)
