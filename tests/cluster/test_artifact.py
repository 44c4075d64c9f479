"""Identity, lookup, verification and lineage of artifacts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import (
    Artifact,
    Identity,
    InputEntry,
    ancestors,
    contributors,
    find_artifact,
    list_artifacts,
    load_artifact,
    local_copy,
    verify_artifact,
)
from cluster.attempt import Attempt
from cluster.errors import UserError
from cluster.store import Store
from cluster.store_local import LocalStore


def make(store: Store, name: str = "corpus", seed: int = 1, parents: tuple[Artifact, ...] = ()) -> Artifact:
    """A small published artifact."""
    identity = Identity("Corpus", name, 1, {"seed": seed}, {p.name: p.fingerprint for p in parents})
    with Attempt(store, identity.id) as attempt:
        attempt.path("data/part-0").write_bytes(bytes(range(256)) * 40)
        attempt.write_json("summary.json", {"seed": seed})
        record = Artifact(
            kind=identity.kind,
            name=identity.name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            inputs={p.name: InputEntry(id=p.id, fingerprint=p.fingerprint) for p in parents},
            attempt=attempt.name,
            files=attempt.seal(),
            counts={"documents": seed},
            provenance={"finished": f"2026-01-01T00:00:{seed:02}Z"},
        )
        return attempt.publish(record)


def test_fingerprint_is_a_golden_value() -> None:
    """Obtained with sha256sum from the canonical JSON text; it must never change for the same identity:

    {"config":{"a":[1,"ü"],"b":2.5},"inputs":{"parent":"ff"},"kind":"Corpus","name":"corpus","version":1}
    """
    identity = Identity("Corpus", "corpus", 1, {"b": 2.5, "a": [1, "ü"]}, {"parent": "ff"})
    assert identity.fingerprint == "bb31dec8e9f10130d47eed6d8e0467f5f5598864781f371c0600fe777b4d3771"
    assert identity.id == f"Corpus/corpus-{identity.fingerprint[:12]}"


@given(st.permutations(["a", "b", "c", "d"]))
def test_fingerprint_ignores_the_order_of_keys(keys: list[str]) -> None:
    config = {key: ord(key) for key in keys}
    same = Identity("Corpus", "x", 1, dict(sorted(config.items())), {})
    assert Identity("Corpus", "x", 1, config, {}).fingerprint == same.fingerprint


@pytest.mark.parametrize(
    "change", [{"kind": "Model"}, {"name": "y"}, {"version": 2}, {"config": {"a": 2}}, {"inputs": {"p": "1"}}]
)
def test_every_part_of_the_identity_counts(change: dict[str, object]) -> None:
    base: dict[str, object] = {"kind": "Corpus", "name": "x", "version": 1, "config": {"a": 1}, "inputs": {"p": "0"}}
    assert Identity(**base).fingerprint != Identity(**(base | change)).fingerprint  # type: ignore[arg-type]


def test_published_artifact_is_found_by_every_name(any_store: Store) -> None:
    older, newer = make(any_store, seed=1), make(any_store, seed=2)
    for reference in (older.id, older.id.split("/")[1], older.fingerprint, older.fingerprint[:8]):
        assert find_artifact(any_store, reference) == older
    assert find_artifact(any_store, "corpus") == newer
    assert list_artifacts(any_store, "Corpus", "corpus") == [older, newer]
    with pytest.raises(UserError, match="no such artifact: curate"):
        find_artifact(any_store, "curate")
    with pytest.raises(UserError, match="fits several artifacts"):
        find_artifact(any_store, "corpus-")


def test_verify_finds_a_flipped_byte_and_a_missing_file(store: LocalStore) -> None:
    artifact = make(store)
    assert verify_artifact(store, artifact) == []
    path = store.local_path(artifact.key("data/part-0"))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    (damage,) = verify_artifact(store, artifact)
    assert damage.key == artifact.key("data/part-0")
    assert "SHA-256" in damage.problem
    path.write_bytes(data[:-1])
    assert "bytes, recorded" in verify_artifact(store, artifact)[0].problem
    path.unlink()
    assert verify_artifact(store, artifact)[0].problem == "missing"


def test_verify_finds_an_altered_identity(store: LocalStore) -> None:
    artifact = make(store)
    altered = artifact.model_copy(update={"identity": artifact.identity | {"version": 9}})
    assert "identity" in verify_artifact(store, altered)[0].problem


def test_a_changed_figure_in_the_record_is_not_believed(store: LocalStore) -> None:
    artifact = make(store)
    key = f"{artifact.id}/artifact.json"
    store.write(key, store.read(key).replace(b'"documents": 1', b'"documents": 7'))
    with pytest.raises(UserError, match="does not match its own checksum"):
        load_artifact(store, artifact.id)


def test_one_damaged_record_does_not_hide_the_others(store: LocalStore) -> None:
    bad, good = make(store, seed=1), make(store, seed=2)
    store.write(f"{bad.id}/artifact.json", b"{half")
    damaged: list[UserError] = []
    assert list_artifacts(store, damaged=damaged) == [good]
    assert bad.id in damaged[0].where
    assert find_artifact(store, "corpus") == good


def test_damaged_record_is_named(store: LocalStore) -> None:
    artifact = make(store)
    store.write(f"{artifact.id}/artifact.json", b"{half")
    with pytest.raises(UserError, match="record is damaged"):
        load_artifact(store, artifact.id)


def test_lineage_reaches_the_roots_and_says_what_is_gone(store: LocalStore) -> None:
    root = make(store, "corpus")
    middle = make(store, "curate", parents=(root,))
    leaf = make(store, "tokens", parents=(middle, root))
    found = [(depth, each.name if each else None) for depth, _, each in ancestors(store, leaf)]
    assert found == [(0, "tokens"), (1, "curate"), (2, "corpus"), (1, "corpus")]
    store.delete(f"{root.id}/artifact.json")
    assert [each for _, _, each in ancestors(store, leaf)].count(None) == 2


def test_what_was_only_compared_with_contributes_nothing() -> None:
    lineage = [(0, ""), (1, "corpus"), (1, "compared with"), (2, "corpus"), (1, "compared with 2"), (1, "questions")]
    found = contributors((depth, role, None) for depth, role in lineage)
    assert [(depth, role) for depth, role, _ in found] == [(0, ""), (1, "corpus"), (1, "questions")]


def test_local_copy_is_checked_and_made_once(s3_store: Store, tmp_path) -> None:  # type: ignore[no-untyped-def]
    artifact = make(s3_store)
    folder = local_copy(s3_store, artifact, tmp_path / "cache")
    assert (folder / "data/part-0").read_bytes() == s3_store.read(artifact.key("data/part-0"))
    s3_store.write(artifact.key("data/part-0"), b"changed")
    assert local_copy(s3_store, artifact, tmp_path / "cache") == folder
    with pytest.raises(UserError, match="does not match its recorded checksum"):
        local_copy(s3_store, artifact, tmp_path / "another")
