"""The list for sites without a network, and whether a folder has all of it."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.bundle import Piece, images_of, missing, pieces_of_platform
from k8s.cluster_profile import Profile, load_profile
from pipelines.cli import run_command

RECIPE = """
name: outside
corpus:
  sources:
  - {kind: hf, path: "hf://datasets/org/texts"}
  - {kind: warc, path: "s3://commoncrawl/a.warc.gz", licence: x}
finetune: {model: "hf://org/small", data: "hf://org/chats"}
evals: {benchmarks: hub, suites: [arc_easy, mmlu]}
serving: {variants: [{name: base, model: "hf://org/base@main"}]}
"""


def test_every_image_of_every_render_is_listed(
    sample: list[tuple[str, Profile]], render: Callable[[Profile], list[dict[str, Any]]]
) -> None:
    for _, profile in sample:
        listed = {piece.name for piece in pieces_of_platform(profile) if piece.kind == "image"}
        text = yaml.safe_dump(render(profile))
        assert set(re.findall(r"^\s*(?:- )?image: (\S+)$", text, re.MULTILINE)) <= listed
        assert any("kuberay/operator" in each for each in listed)


def test_images_are_found_wherever_they_stand() -> None:
    assert images_of([{"a": {"image": "x"}, "b": [{"image": "y"}]}, {"image": {"no": "string"}}]) == {"x", "y"}


def test_a_folder_is_complete_only_with_every_piece(tmp_path: Path) -> None:
    pieces = [
        Piece("image", "quay.io/kuberay/operator:v1.7.0", ""),
        Piece("wheel", "ray==2.60.0", ""),
        Piece("wheel", "Rouge_Score==0.1.2", ""),
        Piece("wheel", "torch==2.13.0", ""),
        Piece("model", "org/base@main", ""),
        Piece("data set", "org/texts", ""),
        Piece("benchmarks", "mmlu", ""),
        Piece("address", "https://example.com/x", ""),
    ]
    for name in (
        "images/quay.io_kuberay_operator_v1.7.0.tar",
        "wheels/ray-2.60.0-cp311-cp311-manylinux2014_x86_64.whl",
        "wheels/rouge-score-0.1.2.tar.gz",
        "wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "models/org/base/config.json",
        "data/org/texts/a.parquet",
        "benchmarks/mmlu/a.parquet",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert missing(pieces, tmp_path) == pieces[-1:]  # an address cannot be carried, only replaced
    (tmp_path / "wheels/ray-2.60.0-cp311-cp311-manylinux2014_x86_64.whl").rename(tmp_path / "wheels/ray-2.61.0-x.whl")
    assert missing(pieces, tmp_path) == [pieces[1], pieces[-1]]


def test_the_systems_packages_are_those_of_the_dockerfile(tmp_path: Path) -> None:
    pieces = [piece for piece in pieces_of_platform(load_profile("gpu")) if piece.kind == "system package"]
    assert [piece.name.partition("=")[0] for piece in pieces] == ["gcc", "libc6-dev", "openssl", "wget"]
    assert [
        each.name.partition("=")[0] for each in pieces_of_platform(load_profile("dev")) if each.kind == pieces[0].kind
    ] == ["libnuma1", "openssl", "wget"]
    (tmp_path / "debs").mkdir()
    for name in (
        "gcc_4%3a12.2.0-3_amd64.deb",
        "libc6-dev_2.36-9+deb12u13_amd64.deb",
        "openssl_3.0.17-1~deb12u3_amd64.deb",
        "wget_1.20.0-1_amd64.deb",
    ):
        (tmp_path / "debs" / name).touch()
    assert missing(pieces, tmp_path) == pieces[-1:]


def test_what_torch_asks_for_is_asked_of_torchs_own_wheel(tmp_path: Path) -> None:
    """The lock leaves CUDA's packages to torch; a bundle without them builds nothing."""
    pieces = [piece for piece in pieces_of_platform(load_profile("gpu")) if piece.kind == "wheels of torch"]
    (piece,) = pieces
    assert not [each for each in pieces_of_platform(load_profile("dev")) if each.kind == piece.kind]
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    assert missing(pieces, tmp_path) == pieces
    version = piece.name.partition("==")[2]
    asks = (
        "nvidia-cublas==13.1.0; platform_system == 'Linux'",
        "pywin32; sys_platform == 'win32'",
        "opt-einsum>=3.3; extra == 'opt-einsum'",
        "jinja2",
        "sympy>=1.13.3",
    )
    with zipfile.ZipFile(wheels / f"torch-{version}-cp311-cp311-manylinux_2_28_x86_64.whl", "w") as archive:
        told = "\n".join(
            ["Metadata-Version: 2.4", "Name: torch", *(f"Requires-Dist: {each}" for each in asks), "", "x"]
        )
        archive.writestr(f"torch-{version}.dist-info/METADATA", told)
    (wheels / "jinja2-3.1.6-py3-none-any.whl").touch()
    (wheels / "sympy-1.12-py3-none-any.whl").touch()
    assert [each.name for each in missing(pieces, tmp_path)] == ["nvidia-cublas==13.1.0", "sympy>=1.13.3"]
    (wheels / "nvidia_cublas-13.1.0-py3-none-manylinux_2_27_x86_64.whl").touch()
    (wheels / "sympy-1.14.0-py3-none-any.whl").touch()
    assert missing(pieces, tmp_path) == []


def test_what_a_recipe_names_outside_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    assert run_command(["bundle", "dev", "recipe.yaml", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    platform = ("image", "base image", "system package", "wheel")
    outside = {(row["kind"], row["name"]) for row in rows if row["kind"] not in platform}
    assert outside == {
        ("data set", "org/texts"),
        ("data set", "org/chats"),
        ("model", "org/small"),
        ("model", "org/base@main"),
        ("benchmarks", "arc_easy, mmlu"),
        ("address", "s3://commoncrawl/a.warc.gz"),
    }
    Path("bundle").mkdir()
    assert run_command(["bundle", "dev", "recipe.yaml", "--check", "bundle"]) == 1
    assert f"0 of {len(rows)} pieces" in capsys.readouterr().err


def test_what_is_in_the_sites_own_bucket_is_not_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "s3://site/warcs/a.warc.gz"
    Path("recipe.yaml").write_text(f"name: x\ncorpus: {{sources: [{{kind: warc, path: '{path}', licence: x}}]}}\n")
    words = ["bundle", "gpu", "recipe.yaml", "--json", "--set", "image=registry.site/raymill:1"]
    assert run_command([*words, "--set", "store=s3://site/raymill"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert not [row for row in rows if row["name"] == path]
    assert "registry.site/raymill:1" in {row["name"] for row in rows if row["kind"] == "image"}
    assert run_command(words) == 0
    assert [row["kind"] for row in json.loads(capsys.readouterr().out) if row["name"] == path] == ["address"]


def test_the_demo_needs_nothing_from_outside() -> None:
    from pipelines.commands.bundle import pieces_of_recipe

    assert pieces_of_recipe("demo.yaml") == []


def test_the_dev_profile_needs_no_redis() -> None:
    names = [piece.name for piece in pieces_of_platform(load_profile("dev")) if piece.kind == "image"]
    assert not any("redis" in name for name in names)
