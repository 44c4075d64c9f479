"""Profiles: what is shipped, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from k8s.cluster_profile import load_profile, shipped

OWN = "store: s3://bucket/prefix\ns3: {secret: keys}\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "team.yaml"
    path.write_text(OWN)
    return path


def test_two_are_shipped() -> None:
    assert shipped() == ["dev", "gpu"]


def test_a_team_writes_its_own(own: Path) -> None:
    profile = load_profile(str(own), ["namespace=team-a", "workers.0={name: big, maximum: 9}"])
    assert profile.namespace == "team-a"
    assert profile.workers[0].maximum == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("namespce: x", "did you mean namespace?"),
        ("workers: [{name: Cpu}]", "workers.0.name"),
        ("workers: [{name: cpu, minimum: 5, maximum: 2}]", "minimum 5 is greater than maximum 2"),
        ("workers: [{name: cpu, replicas: 9, maximum: 2}]", "must lie between minimum and maximum"),
        ("workers: [{name: cpu}, {name: cpu}]", "different names"),
        ("workers: []", "workers"),
        ("s3: {secret: a, identity: {b: c}}", "either `secret` or `identity`"),
        ("s3: {region: eu-west-1}", "either `secret` or `identity`"),
        ("s3: null", "needs the section `s3`"),
        ("claim: {name: volume}", "and no `claim`"),
        ("store: /data", "needs the section `claim`"),
        ("{store: /data, s3: null, claim: {name: volume}}", "name a folder there"),
        ("fault_tolerance: {redis: address}", "`address` belongs to"),
        ("fault_tolerance: {redis: own, address: 'a:1'}", "`address` belongs to"),
        ("fault_tolerance: {redis: address, address: 'a'}", "reads host:port"),
        ("network: {store_cidrs: [everywhere]}", "network.store_cidrs"),
        ("ray_version: latest", "ray_version"),
        ("token_secret: My_Secret", "token_secret"),
    ],
)
def test_mistakes_are_named(own: Path, text: str, message: str) -> None:
    overrides = []
    import yaml

    for key, value in yaml.safe_load(text).items():
        overrides.append(f"{key}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}")
    with pytest.raises(UserError) as raised:
        load_profile(str(own), overrides)
    assert message in str(raised.value)


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shipped are dev, gpu"):
        load_profile("prod")
    with pytest.raises(UserError, match="no such file"):
        load_profile(str(tmp_path / "none.yaml"))


def test_every_key_says_what_it_is() -> None:
    from pydantic import BaseModel

    from k8s import cluster_profile as profile

    models = [each for each in vars(profile).values() if isinstance(each, type) and issubclass(each, BaseModel)]
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
