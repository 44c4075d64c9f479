from __future__ import annotations

import pytest

from pipelines.corpus.licences import licence_name

APACHE = "License :: OSI Approved :: Apache Software License"
MIT = "License :: OSI Approved :: MIT License"


@pytest.mark.parametrize(
    ("expression", "free_text", "classifiers", "name"),
    [
        ("Apache-2.0 OR BSD-2-Clause", "whatever", [MIT], "Apache-2.0 OR BSD-2-Clause"),
        (None, "MIT License", [], "MIT"),
        (None, "Apache License, Version 2.0", [], "Apache-2.0"),
        (None, "Apache 2.0", [APACHE], "Apache-2.0"),
        (None, "PSFL", [], "PSF-2.0"),
        (None, "Permission is hereby granted\nfree of charge", [MIT], "MIT"),
        (None, "UNKNOWN", [APACHE], "Apache-2.0"),
        (None, "Dual License", [APACHE, "License :: OSI Approved :: BSD License"], "Apache-2.0 OR BSD"),
        (None, None, ["License :: OSI Approved"], "unknown"),
        (None, None, ["License :: OSI Approved :: Zope Public License"], "Zope Public License"),
        (None, "My own terms", [], "My own terms"),
        (None, None, [], "unknown"),
    ],
)
def test_licence_name(expression: str | None, free_text: str | None, classifiers: list[str], name: str) -> None:
    assert licence_name(expression, free_text, classifiers) == name
