"""An installed wheel carries everything the checkout has and works the same from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cluster", "pipelines", "evals", "serving", "k8s")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, built from a copy so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    subprocess.run([*command, "--outdir", str(source / "out"), str(source)], check=True, capture_output=True, text=True)
    (wheel,) = (source / "out").glob("*.whl")
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    missing = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not (installed / path.relative_to(ROOT)).exists()
    ]
    assert missing == []


def test_the_wheel_requires_neither_vllm(installed: Path) -> None:
    (folder,) = installed.glob("raymill-*.dist-info")
    requires = [line for line in (folder / "METADATA").read_text().splitlines() if line.startswith("Requires-Dist")]
    engines = [line for line in requires if "vllm" in line]
    assert len(engines) == 2
    assert all("extra ==" in line for line in engines)


def test_the_wheel_plans_the_demo_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import pipelines, sys\n"
        f"assert pipelines.__file__.startswith({str(installed)!r}), pipelines.__file__\n"
        "from pipelines.cli import main\n"
        "main(['plan', 'demo.yaml'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "evals-finetune" in result.stdout


def test_the_wheel_renders_manifests_from_any_folder(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "manifests", "gpu"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "kind: PrometheusRule" in result.stdout
