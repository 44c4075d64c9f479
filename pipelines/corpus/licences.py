"""A package's licence as an SPDX expression, from whichever of three metadata fields its authors filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNKNOWN = "unknown"

_NAMES = {
    "mit": "MIT",
    "the mit": "MIT",
    "the mit (mit)": "MIT",
    "mit (mit)": "MIT",
    "mit no attribution": "MIT-0",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "apache version 2.0": "Apache-2.0",
    "bsd": "BSD",
    "bsd 3-clause": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "psf-2.0": "PSF-2.0",
    "python software foundation": "PSF-2.0",
    "isc": "ISC",
    "isc (iscl)": "ISC",
    "mpl-2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "gplv2": "GPL-2.0-only",
    "gpl-2.0": "GPL-2.0-only",
    "gnu general public v2 (gplv2)": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "gnu general public v3 (gplv3)": "GPL-3.0-only",
    "gnu lesser general public v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public v3 (lgplv3)": "LGPL-3.0-only",
    "the unlicense (unlicense)": "Unlicense",
    "public domain": "public domain",
    "other/proprietary": "proprietary",
}
_CLASSIFIER = "License :: "
_LONGEST_NAME = 80


def licence_name(expression: str | None, free_text: str | None, classifiers: Sequence[str]) -> str:
    """The SPDX expression where one is given or recognised, the authors' own short words otherwise, or ``unknown``.

    Args:
        expression: the metadata field License-Expression (PEP 639), already SPDX.
        free_text: the old field License: a name, or sometimes the whole licence.
        classifiers: all classifiers; those beginning ``License ::`` are used.
    """
    if expression and expression.strip():
        return " ".join(expression.split())
    short = (free_text or "").strip()
    if short and "\n" not in short and len(short) <= _LONGEST_NAME and short.lower() not in {"unknown", "dual license"}:
        return _NAMES.get(_key(short), short)
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith(_CLASSIFIER)]
    found = sorted({_NAMES.get(_key(name), name) for name in named if name not in ("OSI Approved", "DFSG approved")})
    return " OR ".join(found) if found else UNKNOWN


def _key(name: str) -> str:
    """The name without case, commas and the word licence, so that spellings of one licence meet."""
    plain = re.sub(r"\blicen[sc]e\b|,", " ", name.lower())
    return " ".join(plain.split())
