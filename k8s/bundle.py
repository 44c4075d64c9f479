"""What must be carried into a site without a network: images, wheels, and what a recipe names outside its store."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from k8s.cluster_profile import Profile
from k8s.images.contents import FOLDER, normal
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

OPERATOR = "quay.io/kuberay/operator:v1.7.0"
BASE_OF = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """One thing to carry.

    Attributes:
        kind: image, base image, wheel, model, data set, benchmarks or address.
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
    return [
        *(Piece("image", name, "push it to the site's registry") for name in images),
        Piece("base image", base, f"for building {profile.image} at the site"),
        *(Piece("wheel", name, f"for building {profile.image} at the site") for name in wheels),
    ]


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

    Looked for are ``images/<name with / and : as _>.tar``, ``wheels/`` with the version's file, and
    ``models/``, ``data/`` with folders ``organisation/name``; ``benchmarks/`` is a mirror's folder.
    """
    return [piece for piece in pieces if not _there(piece, folder)]


def _there(piece: Piece, folder: Path) -> bool:
    if piece.kind in ("image", "base image"):
        return (folder / "images" / f"{re.sub(r'[/:]', '_', piece.name)}.tar").is_file()
    if piece.kind == "wheel":
        name, _, version = piece.name.partition("==")
        return any(_is_wheel_of(path.name, name, version) for path in (folder / "wheels").glob("*"))
    if piece.kind == "benchmarks":
        return any((folder / "benchmarks").glob("*"))
    place = {"model": "models", "data set": "data"}.get(piece.kind)
    return place is not None and any((folder / place / piece.name.partition("@")[0]).glob("*"))


def _is_wheel_of(file: str, name: str, version: str) -> bool:
    """Whether a wheel or a source archive is of a distribution at a version, whatever its local part (``+cpu``)."""
    stem = file.removesuffix(".tar.gz") if file.endswith(".tar.gz") else file.rpartition(".whl")[0]
    parts = stem.rsplit("-", 1) if file.endswith(".tar.gz") else stem.split("-")[:2]
    if len(parts) != 2:
        return False
    return normal(parts[0]) == normal(name) and parts[1].partition("+")[0] == version.partition("+")[0]
