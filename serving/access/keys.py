"""API keys: made once and shown once, kept as hashes, each with scopes and limits. No Ray, no HTTP, no clock."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from cluster.config import StrictModel

Scope = Literal["call", "admin"]

_PREFIX = "rmk-"
_LONGEST_SECRET = 256


class KeyLimits(StrictModel):
    """What one key may use; None is without limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)


class ApiKey(StrictModel):
    """A key as it is kept.

    Attributes:
        id: public, for lists, logs and revocation.
        name: what the creator called it.
        sha256: of the secret; 256 random bits need no slow hash (NIST SP 800-63B, 5.1.1.2 is about chosen secrets).
        models: model names that it may call; empty for all.
        created_at: seconds since the epoch.
        revoked_at: seconds since the epoch; None while it is good.
    """

    id: str
    name: str
    sha256: str
    scopes: tuple[Scope, ...] = ("call",)
    limits: KeyLimits = KeyLimits()
    models: tuple[str, ...] = ()
    created_at: float
    created_by: str
    revoked_at: float | None = None


def make_secret() -> str:
    """A new secret: ``rmk-`` and 43 URL-safe characters, 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """What is kept of a secret: its SHA-256 in hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """The keys that are good now, found by their secrets.

    The secret is hashed and the hash looked up, so the time taken says nothing about how much of a guess was right.
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._by_hash = {key.sha256: key for key in keys if key.revoked_at is None}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret; None where there is none or it was revoked."""
        return self._by_hash.get(hash_secret(secret)) if len(secret) <= _LONGEST_SECRET else None
