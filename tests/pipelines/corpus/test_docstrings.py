from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from pipelines.corpus.docstrings import module_markdown

SOURCE = b'''"""What the module does.

More of it.
"""
import os

def add(a: int, b=2, *rest, key: str = "x", **more) -> int:
    """Add numbers.

        indented example

    The end.
    """

def _private():
    """Not shown."""

def bare(): pass

async def fetch(url, /, *, timeout=3.0):
    """Fetch a page."""

class Box(dict):
    """Holds things."""
    def __init__(self, size, lid=None):
        """Not a section of its own."""
    def open(self):
        """Open it."""
    def _hidden(self):
        """Not shown."""

class Silent:
    def speak(self):
        """Speak all the same."""
'''

GOLDEN = """# shop.boxes

What the module does.

More of it.

## def add(a: int, b=2, *rest, key: str='x', **more)

Add numbers.

    indented example

The end.

## def fetch(url, /, *, timeout=3.0)

Fetch a page.

## class Box(size, lid=None)

Holds things.

## def Box.open(self)

Open it.

## def Silent.speak(self)

Speak all the same.
"""


def test_markdown_of_a_module() -> None:
    assert module_markdown(SOURCE, "shop.boxes") == GOLDEN


def test_the_source_is_never_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    source = f'"""Docs."""\nopen({str(victim)!r}, "w")\n'.encode()
    assert module_markdown(source, "m") == "# m\n\nDocs.\n"
    assert not victim.exists()


def test_modules_without_documentation_give_nothing() -> None:
    assert module_markdown(b"x = 1\n", "m") is None
    assert module_markdown(b'x = """a string, not a docstring"""\n', "m") is None


def test_a_declared_encoding_is_followed() -> None:
    text = module_markdown('# -*- coding: latin-1 -*-\n"""Grüße."""\n'.encode("latin-1"), "m")
    assert text is not None
    assert "Grüße." in text


def test_a_very_long_signature_keeps_only_names() -> None:
    parameters = ", ".join(f"parameter_{i}: dict[str, int] = None" for i in range(12))
    text = module_markdown(f'def f({parameters}, *, last=1, **more):\n    """Do."""\n'.encode(), "m")
    assert text is not None
    heading = text.splitlines()[2]
    assert heading == "## def f(" + ", ".join(f"parameter_{i}" for i in range(12)) + ", *, last, **more)"


@pytest.mark.parametrize(("first", "shown"), [("self", "b, c=2"), ("self, a, /", "a, /, b, c=2")])
def test_self_is_left_out_of_a_class_signature(first: str, shown: str) -> None:
    source = f'class C:\n    """D."""\n    def __init__({first}, b, c=2): pass\n'.encode()
    text = module_markdown(source, "m")
    assert text is not None
    assert f"## class C({shown})" in text


def test_source_that_is_not_python_raises() -> None:
    with pytest.raises(SyntaxError):
        module_markdown(b'"""x"""\nprint "old"\n', "m")


@pytest.mark.parametrize("module", ["argparse", "textwrap", "heapq", "shlex"])
def test_every_public_docstring_of_real_modules_is_there(module: str) -> None:
    """Oracle: the docstrings that ``ast`` finds at the top level, compared as they stand."""
    source = (Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_bytes()
    text = module_markdown(source, module)
    assert text is not None
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            about = ast.get_docstring(node)
            if about:
                assert about.strip() in text
