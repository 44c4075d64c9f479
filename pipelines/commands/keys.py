"""`raymill keys`: API keys, made once and shown once."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace

from cluster.errors import UserError
from cluster.progress import table
from pipelines.commands.deployment import target_of
from serving.access.keys import ApiKey, KeyLimits
from serving.control import operations
from serving.control.changes import find_key
from serving.control.names import who

LONGEST_NAME = 64


def create(arguments: Namespace) -> int:
    """Make a key; its secret alone goes to stdout, everything else to stderr, so that it can be piped."""
    target = target_of(arguments)
    name = arguments.name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise UserError(
            f"a key's name has 1 to {LONGEST_NAME} printable characters",
            where="raymill keys create",
            next_step="name whom it is for, such as `search-team`",
        )
    key, secret = operations.create_key(
        target.journal,
        name,
        by=who(),
        reason=arguments.reason or f"key for {name}",
        scopes=tuple(dict.fromkeys(arguments.scopes)) or ("call",),
        limits=limits_of(arguments),
        models=tuple(dict.fromkeys(arguments.models)),
    )
    print(secret, flush=True)  # before anything that may fail: it is shown only once
    print(f"{key.id} ({key.name}): {_allowed(key)}; the secret is shown only now", file=sys.stderr)
    print(target.applied(target.journal.current()), file=sys.stderr)
    return 0


def list_keys(arguments: Namespace) -> int:
    """Print every key; never a secret, of which only a hash is kept."""
    target = target_of(arguments)
    state = target.journal.current()
    if arguments.json:
        keys = [key.model_dump(exclude={"sha256"}) for key in state.keys]
        print(json.dumps({"deployment": target.name, "require_keys": state.require_keys, "keys": keys}, indent=1))
        return 0
    rows = [
        {
            "key": key.id,
            "name": key.name,
            "may": _allowed(key),
            "created": f"{_day(key.created_at)} by {key.created_by}",
            "state": "good" if key.revoked_at is None else f"revoked {_day(key.revoked_at)}",
        }
        for key in state.keys
    ]
    print(table(rows) if rows else "no keys yet; `raymill keys create NAME` makes one")
    print(f"{target.name}: callers {'need a key' if state.require_keys else 'may come without a key'}")
    return 0


def revoke(arguments: Namespace) -> int:
    """End a key on every gateway."""
    target = target_of(arguments)
    found = find_key(target.journal.current(), arguments.key)
    reason = arguments.reason or f"revoked {found.name}"
    _, line = target.change(lambda: operations.revoke_key(target.journal, found.id, by=who(), reason=reason))
    print(f"{found.id} ({found.name}) is revoked: {line}")
    return 0


def limit(arguments: Namespace) -> int:
    """Give a key other limits; those that are not named stay, 0 takes one away."""
    target = target_of(arguments)
    found = find_key(target.journal.current(), arguments.key)
    given = {name: getattr(arguments, name) for name in KeyLimits.model_fields}
    if all(value is None for value in given.values()):
        raise UserError(
            "no limit is named",
            where="raymill keys limit",
            next_step="for example --requests-per-minute 60; 0 takes a limit away",
        )
    changed = {name: value or None for name, value in given.items() if value is not None}
    reason = arguments.reason or f"limits of {found.name}"
    state, line = target.change(
        lambda: operations.set_key_limits(target.journal, found.id, changed, by=who(), reason=reason)
    )
    print(f"{found.id} ({found.name}) may {_allowed(find_key(state, found.id))}: {line}")
    return 0


def require(arguments: Namespace) -> int:
    """Say whether callers need a key."""
    target = target_of(arguments)
    required = arguments.required == "on"
    reason = arguments.reason or f"keys {'required' if required else 'not required'}"
    _, line = target.change(lambda: operations.require_keys(target.journal, required, by=who(), reason=reason))
    print(f"callers {'need a key' if required else 'may come without a key'}: {line}")
    return 0


def limits_of(arguments: Namespace) -> KeyLimits:
    """The limits that the command line names."""
    return KeyLimits(**{name: getattr(arguments, name) or None for name in KeyLimits.model_fields})


def _allowed(key: ApiKey) -> str:
    parts = [" and ".join(key.scopes)]
    limits = key.limits
    if limits.requests_per_minute:
        parts.append(f"{limits.requests_per_minute} requests/min")
    if limits.tokens_per_minute:
        parts.append(f"{limits.tokens_per_minute} tokens/min")
    if limits.concurrency:
        parts.append(f"{limits.concurrency} at a time")
    if key.models:
        parts.append(f"only {', '.join(key.models)}")
    return ", ".join(parts)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
