"""Secrets are random, kept as hashes, and found again; revoked ones are not."""

from __future__ import annotations

import re

from serving.access.keys import ApiKey, KeyRing, hash_secret, make_secret


def key(secret: str, **fields: object) -> ApiKey:
    plain = {"id": "k-1", "name": "test", "sha256": hash_secret(secret), "created_at": 0.0, "created_by": "me"}
    return ApiKey.model_validate(plain | fields)


def test_secrets_hold_256_random_bits() -> None:
    made = {make_secret() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"rmk-[A-Za-z0-9_-]{43}", secret) for secret in made)


def test_hash_is_sha256() -> None:
    # FIPS 180-4 example: SHA-256 of "abc".
    assert hash_secret("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_ring_finds_good_keys_only() -> None:
    good, revoked = make_secret(), make_secret()
    ring = KeyRing([key(good, id="k-good"), key(revoked, id="k-revoked", revoked_at=1.0)])
    found = ring.find(good)
    assert found is not None
    assert found.id == "k-good"
    assert ring.find(revoked) is None
    assert len(ring) == 1


def test_ring_refuses_what_is_no_secret() -> None:
    secret = make_secret()
    ring = KeyRing([key(secret)])
    for guess in ("", secret[:-1], secret + "=", secret.upper(), hash_secret(secret), "\udcff", "x" * 100_000):
        assert ring.find(guess) is None


def test_a_record_never_holds_the_secret() -> None:
    secret = make_secret()
    assert secret not in key(secret).model_dump_json()
