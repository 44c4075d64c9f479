"""`raymill manifests`: the platform of a profile, or a served recipe; printed, never applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.cluster_profile import load_profile, shipped
from k8s.render import platform
from pipelines.cli import run_command
from pipelines.commands.manifests import served_recipe
from pipelines.recipe import load_recipe

Manifest = dict[str, Any]


@pytest.mark.parametrize("name", shipped())
def test_the_platform_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["manifests", name]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == platform(load_profile(name))


@pytest.mark.anchor
@pytest.mark.parametrize("name", shipped())
def test_the_demo_can_be_served(
    name: str, capsys: pytest.CaptureFixture[str], schema_errors: Callable[[Manifest], list[str]]
) -> None:
    assert run_command(["manifests", name, "--serve", "demo.yaml"]) == 0
    manifests = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [error for each in manifests for error in schema_errors(each)] == []
    config, service = manifests[0], manifests[1]
    assert service["kind"] == "RayService"
    mounted = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["volumes"]
    assert {"name": "recipe", "configMap": {"name": config["metadata"]["name"]}} in mounted


def test_the_recipe_that_is_mounted_is_complete(tmp_path: Path) -> None:
    name, text = served_recipe("demo.yaml", "s3://raymill/store")
    assert name == "raymill-docs-assistant"
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    assert (recipe.store, recipe.cluster.address) == ("s3://raymill/store", "auto")
    assert recipe.serving == load_recipe("demo.yaml").serving


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\ncorpus: {}\n", "has no `serving` section"),
        (
            "name: x\nserving: {variants: [{name: a, model: '@pretrain',"
            " prompt: {system: 'hf_abcdefghijklmnopqrstuvwxyzABCD'}}]}\n",
            "a Hugging Face token",
        ),
    ],
)
def test_what_cannot_be_served_so_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert run_command(["manifests", "dev", "--serve", str(path)]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "hf_abc" not in said.err + said.out


def test_a_profile_that_the_operator_would_refuse_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["manifests", "dev", "--set", "tls=true"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "RayClusterMTLS" in said.err
    assert run_command(["manifests", "dev", "--set", "tls=true", "--set", "feature_gates=[RayClusterMTLS]"]) == 0


def test_long_names_are_cut_to_what_kubernetes_takes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: an-assistant.with_a-name_that_is.longer-than-kubernetes-and-kuberay-would-take\nserving: {}\n"
    )
    name, _ = served_recipe(str(path), "/store")
    assert len(name) <= 47
    assert name.replace("-", "").isalnum()
    assert not name.endswith("-")
