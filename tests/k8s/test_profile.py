"""Profiles: what is shipped, what is refused, and with which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.errors import UserError
from k8s.cluster_profile import Profile, load_profile, shipped
from k8s.network import policies
from k8s.sections import (
    Claim,
    FaultTolerance,
    Jobs,
    Monitoring,
    Network,
    PodSize,
    Queue,
    S3Place,
    Serving,
    WorkerGroup,
)
from pipelines.cli import run_command

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
        ("network: {store_cidrs: [10.1.2.3]}", "has no prefix: one address is written 10.1.2.3/32"),
        ("network: {store_cidrs: [10.1.2.3/8]}", "has host bits set"),
        ("network: {store_ports: [99999]}", "network.store_ports.0"),
        ("network: {store_cidrs: []}", "nothing lets pods out to the bucket"),
        ("s3: {secret: a, endpoint_url: 'http://minio.minio:9000'}", "is on port 9000"),
        ("s3: {secret: a, endpoint_url: 'http://minio'}", "is on port 80"),
        ("s3: {secret: a, endpoint_url: 'minio:9000'}", "reads http://host:port"),
        ("fault_tolerance: {redis: address, address: 'r:1', cidrs: [every]}", "fault_tolerance.cidrs.0"),
        ("ray_version: latest", "ray_version"),
        ("token_secret: My_Secret", "token_secret: is no name in Kubernetes: lower-case letters"),
        ("image: 'a b'", "image: is no image: registry/name:tag"),
        ("image: Raymill", "image: is no image"),
        ("workers: [{name: cpu, cpus: .inf}]", "workers.0.cpus"),
        ("workers: [{name: cpu, cpus: 0.01}]", "workers.0.cpus"),
        ("workers: [{name: cpu, memory_gib: .nan}]", "workers.0.memory_gib"),
        ("workers: [{name: cpu, tolerations: [{key: a, value: b}]}]", "belongs to `operator: Equal`"),
        ("{store: /store, s3: null, claim: {storage_class: nfs}}", "give its `size_gib`"),
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


@pytest.mark.parametrize(
    "text",
    [
        "raymill:0.1.0",
        "localhost:5000/raymill",
        "registry.example.com:5000/team/raymill_x:v1.2-cpu",
        "ghcr.io/team/ray.mill@sha256:" + "0123456789abcdef" * 4,
    ],
)
def test_images_are_named_as_registries_name_them(own: Path, text: str) -> None:
    assert load_profile(str(own), [f"image={text}"]).image == text


def test_a_bucket_of_the_same_cluster_is_reached_by_its_namespace(own: Path) -> None:
    where = ["s3.endpoint_url=http://minio.minio:9000", "network={store_cidrs: [], store_namespaces: [minio]}"]
    with pytest.raises(UserError, match="port 9000"):
        load_profile(str(own), where)
    profile = load_profile(str(own), [*where, "network.store_ports=[9000]"])
    (policy,) = [each for each in policies(profile) if each["metadata"]["name"] == "raymill-store"]
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9000}]
    load_profile(str(own), ["s3.endpoint_url=http://minio.minio:9000", "network.policies=false"])  # somebody else's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3.endpoint_url=http://me:hunter2hunter2@minio:443", "holds a name or a password"),
        ("submitters=[AKIAIOSFODNN7ABCDEFG]", "looks like an AWS access key"),
    ],
)
def test_a_secret_in_a_profile_is_refused_and_not_shown(own: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_profile(str(own), [text], "--profile-set")
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert "AKIAIOSFO" not in str(raised.value)
    assert "--profile-set " in str(raised.value)


def test_a_mistake_is_said_to_be_where_it_was_made(own: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_profile(str(own), ["namespce=x"], "--profile-set")
    assert str(raised.value).startswith("--profile-set namespce=x: namespce: unknown key; did you mean namespace?")
    assert "--profile` writes" in str(raised.value)
    own.write_text(OWN + "workers: [{name: cpu, idle_secs: 3}]\n")
    with pytest.raises(UserError, match=r"team.yaml:3: workers.0.idle_secs: unknown key; did you mean idle_seconds\?"):
        load_profile(str(own))


def test_an_unknown_name_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="shipped are dev, gpu"):
        load_profile("prod")
    with pytest.raises(UserError, match="no such file"):
        load_profile(str(tmp_path / "none.yaml"))
    Path("prod.yaml").write_text(OWN)
    with pytest.raises(UserError, match=r"named with its ending: prod\.yaml"):
        load_profile("prod")


def test_a_profile_to_start_from_has_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["new", "team", "--profile"]) == 0
    assert "raymill submit RECIPE --kubernetes team.yaml" in capsys.readouterr().out
    text = Path("team.yaml").read_text()
    plain = load_profile("team.yaml")
    assert plain == Profile(image=plain.image, s3=plain.s3)
    for key in Profile.model_fields:
        assert len(re.findall(rf"^(?:#[:?] )?{key}:", text, re.MULTILINE)) == 1, key
    for model in (PodSize, WorkerGroup, S3Place, Claim, Queue, FaultTolerance, Network, Monitoring, Jobs, Serving):
        for key in model.model_fields:
            assert re.search(rf"\b{key}: ", text), key
    Path("team.yaml").write_text(text.replace("#: ", ""))
    assert load_profile("team.yaml").model_dump(exclude={"workers"}) == plain.model_dump(exclude={"workers"})
    queue = text.partition("#? queue:")[2].partition("\n\n")[0]
    Path("team.yaml").write_text(f"{text}queue:{queue.replace('#? ', '')}\n")
    assert load_profile("team.yaml").queue == Queue(name="raymill")
    assert run_command(["new", "team", "--profile"]) == 2  # what is there is not written over


def test_every_key_says_what_it_is() -> None:
    from pydantic import BaseModel

    from k8s import cluster_profile, sections

    known = [*vars(cluster_profile).values(), *vars(sections).values()]
    models = {each for each in known if isinstance(each, type) and issubclass(each, BaseModel)}
    assert len(models) > 10
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
