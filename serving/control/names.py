"""Names: which people may give, what was meant by one that does not exist, and that of who asks."""

from __future__ import annotations

import difflib
import getpass
import os
import re
import socket
from collections.abc import Iterable

from cluster.errors import UserError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def who() -> str:
    """The person who runs this process, for the journal: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def check_name(name: str) -> str:
    """The name, where it can be one of a deployment; otherwise UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a deployment",
            where="--deployment",
            next_step="names have lower-case letters, digits, '.', '_' and '-'",
        )
    return name


def unknown(kind: str, name: str, known: Iterable[str], *, where: str) -> UserError:
    """The error about a name that does not exist, with the nearest one that does."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return UserError(
        f"no {kind} {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        where=where,
        next_step=f"there {'is' if len(names) == 1 else 'are'}: {', '.join(names)}"
        if names
        else f"there is no {kind} yet",
    )
