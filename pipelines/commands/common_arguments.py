"""Arguments that many commands take, and kinds of them. Light: argparse only, loaded with every command line."""

from __future__ import annotations

from argparse import ArgumentParser

DEFAULT_STORE = "./raymill-store"


def store(parser: ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help=f"default: {DEFAULT_STORE}")


def as_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")


def repeated(parser: ArgumentParser, option: str, metavar: str, into: str, says: str) -> None:
    """An option that may be given several times; ``into`` is the list of its values, empty without any."""
    parser.add_argument(
        option, metavar=metavar, dest=into, action="append", default=[], help=f"{says}; may be repeated"
    )


def count(text: str) -> int:
    """A type of arguments: a whole number of at least 0. argparse names it in its message."""
    if not text.isdigit():
        raise ValueError(text)
    return int(text)
