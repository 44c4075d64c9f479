"""API keys: made once and shown once, kept as hashes, each with scopes and limits. No Ray, no HTTP, no clock."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.config import StrictModel

Scope = Literal["call", "admin"]


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
