"""The Serve application of a RayService: it deploys the mounted recipe, and again when that changes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from pipelines.cli import build_parser
from pipelines.keeper import Keeper


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe; deploying it writes its text to another file, and fails where the text says so."""
    program = (
        "import pathlib, sys; text = pathlib.Path(sys.argv[1]).read_text();"
        "open(sys.argv[1] + '.served', 'a').write(text);"
        "sys.exit('error: no such model' if 'broken' in text else 0)"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text("one\n")
    monkeypatch.setattr(Keeper, "command", lambda self: [sys.executable, "-c", program, str(self._recipe)])
    monkeypatch.setattr(Keeper, "_watch", lambda self: None)
    return path


def served(recipe: Path) -> str:
    return recipe.with_name("recipe.yaml.served").read_text()


def test_it_is_up_when_the_models_answer_and_follows_the_file(recipe: Path) -> None:
    keeper = Keeper(str(recipe), 8000)
    assert served(recipe) == "one\n"
    keeper.look()
    assert served(recipe) == "one\n"
    recipe.write_text("two\n")
    keeper.look()
    keeper.look()
    assert served(recipe) == "one\ntwo\n"


def test_a_recipe_that_cannot_be_served_keeps_a_new_cluster_from_the_callers(recipe: Path) -> None:
    recipe.write_text("broken\n")
    with pytest.raises(RuntimeError, match="no such model"):
        Keeper(str(recipe), 8000)


def test_a_change_that_is_refused_is_said_once_and_leaves_the_rest(
    recipe: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    keeper = Keeper(str(recipe), 8000)
    recipe.write_text("broken\n")
    keeper.look()
    keeper.look()
    assert caplog.text.count("the changed recipe is not served: error: no such model") == 1
    recipe.write_text("three\n")
    keeper.look()
    assert served(recipe).endswith("three\n")


def test_the_command_is_one_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper.__new__(Keeper)
    keeper._recipe, keeper._port = Path("/etc/raymill/recipe.yaml"), 8000
    words = keeper.command()
    arguments = build_parser().parse_args(words[3:])
    assert words[1:3] == ["-m", "pipelines.cli"]
    assert arguments.take_over
    assert arguments.address == "auto"
    assert {"serving.host=0.0.0.0", "serving.gateways=1", "serving.port=8000"} <= set(arguments.overrides)


def test_the_service_names_this_application() -> None:
    import yaml

    from k8s.cluster_profile import load_profile
    from k8s.rayservice import service_manifests

    service = service_manifests(load_profile("gpu"), "x", "name: x\n")[1]["spec"]
    (keeper,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    module, _, name = keeper["import_path"].partition(":")
    import importlib

    assert callable(getattr(importlib.import_module(module), name))
    assert keeper["args"].keys() == {"recipe", "port"}
