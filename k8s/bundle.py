"""What must be carried into a site without a network: images, wheels, and what a recipe names outside its store."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.cluster_profile import Profile
from k8s.images.contents import FOLDER, normal
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

WHEELS_OF_TORCH = "wheels of torch"
OPERATOR = "quay.io/kuberay/operator:v1.7.0"
SYSTEM_PACKAGE = re.compile(r'"([a-z0-9][a-z0-9.+-]*=[^"\s]+)"')
"""As `apt-get install` of a Dockerfile names them: with a version, which may end in a star."""
IN_THE_IMAGE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "python_full_version": "3.11.14",
    "extra": "",
}
BASE_OF = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """One thing to carry.

    Attributes:
        kind: image, base image, system package, wheel, wheels of torch, model, data set, benchmarks or address.
        name: as whoever fetches it calls it.
        how: what to do with it.
    """

    kind: str
    name: str
    how: str

    def row(self) -> dict[str, str]:
        """For a table."""
        return asdict(self)


def pieces_of_platform(profile: Profile) -> list[Piece]:
    """Every image that a profile's manifests name and KubeRay's own, and what building our image takes."""
    from cluster.jobs import Submission

    submission = Submission("x", "name: x\n", profile.store, ("raymill",))
    manifests = [*platform(profile), *job_manifests(profile, submission), *service_manifests(profile, "x", "name: x\n")]
    kind = "cuda" if any(group.gpus for group in profile.workers) else "cpu"
    dockerfile = (FOLDER / f"{kind}.Dockerfile").read_text(encoding="utf-8")
    (base,) = BASE_OF.findall(dockerfile)
    images = sorted({*images_of(manifests), OPERATOR})
    wheels = (FOLDER / f"{kind}.lock").read_text(encoding="utf-8").split()
    build = f"for building {profile.image} at the site"
    found = [
        *(Piece("image", name, "push it to the site's registry") for name in images),
        Piece("base image", base, build),
        *(Piece("system package", name, f"{build}, from its Debian mirror") for name in system_packages(dockerfile)),
        *(Piece("wheel", name, build) for name in wheels),
    ]
    if kind == "cuda":
        (torch,) = (name for name in wheels if name.startswith("torch=="))
        how = f"{build}: its CUDA packages, by `pip download --constraint k8s/images/cuda.lock {torch}`"
        found.append(Piece(WHEELS_OF_TORCH, torch, how))
    return found


def system_packages(dockerfile: str) -> list[str]:
    """What a Dockerfile installs by apt-get, each as ``name=version``."""
    installs = re.findall(r"apt-get install[^&|;]*", dockerfile.replace("\\\n", " "))
    return [name for install in installs for name in SYSTEM_PACKAGE.findall(install)]


def images_of(value: object) -> set[str]:
    """Every image that manifests name."""
    if isinstance(value, dict):
        own = {value["image"]} if isinstance(value.get("image"), str) else set()
        return own.union(*(images_of(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(images_of(item) for item in value))
    return set()


def missing(pieces: list[Piece], folder: Path) -> list[Piece]:
    """The pieces that a folder lacks.

    Looked for are ``images/<name with / and : as _>.tar``, ``debs/<name>_<version>….deb``, ``wheels/`` with the
    version's file and all that torch's own file asks for, and ``models/``, ``data/`` with folders
    ``organisation/name``; ``benchmarks/`` is a mirror's folder.
    """
    lacking = []
    for piece in pieces:
        if piece.kind == WHEELS_OF_TORCH:
            lacking += _not_with_torch(piece, folder)
        elif not _there(piece, folder):
            lacking.append(piece)
    return lacking


def _not_with_torch(piece: Piece, folder: Path) -> list[Piece]:
    """What torch's wheel asks for and the folder has not; the piece itself where there is no such wheel to ask."""
    from packaging.requirements import Requirement

    name, _, version = piece.name.partition("==")
    wheel = next((path for path in _wheels(folder) if _is_wheel_of(path.name, name, version)), None)
    if wheel is None:
        return [piece]
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(archive.read(entry).decode("utf-8"))
    wanted = map(Requirement, told.get_all("Requires-Dist", []))
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate(IN_THE_IMAGE)]
    return [
        Piece("wheel", str(each).partition(";")[0].strip(), f"{piece.name} asks for it")
        for each in needed
        if not any(_satisfies(path.name, each.name, each.specifier) for path in _wheels(folder))
    ]


def _satisfies(file: str, name: str, versions: SpecifierSet) -> bool:
    parts = _name_and_version(file)
    return parts is not None and normal(parts[0]) == normal(name) and versions.contains(parts[1], prereleases=True)


def _wheels(folder: Path) -> Iterable[Path]:
    return sorted((folder / "wheels").glob("*"))


def _there(piece: Piece, folder: Path) -> bool:
    if piece.kind in ("image", "base image"):
        return (folder / "images" / f"{re.sub(r'[/:]', '_', piece.name)}.tar").is_file()
    name, _, version = piece.name.partition("==")
    if piece.kind == "wheel":
        return any(_is_wheel_of(path.name, name, version) for path in _wheels(folder))
    if piece.kind == "system package":
        name, _, version = piece.name.partition("=")
        # A colon before the version (its epoch) is %3a in a file's name.
        return any((folder / "debs").glob(f"{name}_{version.replace(':', '%3a').removesuffix('*')}*.deb"))
    if piece.kind == "benchmarks":
        return any((folder / "benchmarks").glob("*"))
    place = {"model": "models", "data set": "data"}.get(piece.kind)
    return place is not None and any((folder / place / piece.name.partition("@")[0]).glob("*"))


def _is_wheel_of(file: str, name: str, version: str) -> bool:
    """Whether a wheel or a source archive is of a distribution at a version, whatever its local part (``+cpu``)."""
    parts = _name_and_version(file)
    if parts is None:
        return False
    return normal(parts[0]) == normal(name) and parts[1].partition("+")[0] == version.partition("+")[0]


def _name_and_version(file: str) -> tuple[str, str] | None:
    stem = file.removesuffix(".tar.gz") if file.endswith(".tar.gz") else file.rpartition(".whl")[0]
    parts = stem.rsplit("-", 1) if file.endswith(".tar.gz") else stem.split("-")[:2]
    return (parts[0], parts[1]) if len(parts) == 2 else None
