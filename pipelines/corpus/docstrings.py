"""A Python module's documentation as Markdown, read from its source with ``ast``: nothing is imported or run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

LONGEST_SIGNATURE = 160

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_markdown(source: bytes, module: str) -> str | None:
    """The module's docstring and those of its public functions, classes and methods, or None where it has none.

    ``# package.module`` comes first, then for each definition ``## def name(signature)``, ``## def Class.name(…)`` or
    ``## class Name(signature)``, a blank line and its docstring. The source's own encoding declaration is followed.

    Raises:
        SyntaxError, ValueError, RecursionError: the source is not Python that this version can parse.
    """
    if b'"""' not in source and b"'''" not in source:
        return None  # parsing costs far more than looking; docstrings in single quotes are rare
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        tree = ast.parse(source)
    sections = list(_sections(tree))
    about = ast.get_docstring(tree)
    if about is None and not sections:
        return None
    return "\n\n".join([f"# {module}", *([about.strip()] if about else []), *sections]).strip() + "\n"


def _sections(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, _Function):
            yield from _function(node, "")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [child for child in node.body if isinstance(child, _Function)]
            about = _documentation(node)
            if about:
                start = next((method for method in methods if method.name == "__init__"), None)
                yield f"## class {node.name}({_signature(start, skip_first=True) if start else ''})\n\n{about}"
            for method in methods:
                yield from _function(method, f"{node.name}.")


def _function(node: _Function, prefix: str) -> Iterator[str]:
    about = _documentation(node)
    if about and not node.name.startswith("_"):
        yield f"## def {prefix}{node.name}({_signature(node)})\n\n{about}"


def _documentation(node: _Function | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").strip()


def _signature(node: _Function, skip_first: bool = False) -> str:
    """The parameters on one line; annotations and defaults are left out where the line would be very long."""
    arguments = node.args
    if skip_first and (arguments.posonlyargs or arguments.args):
        first_positional_only = arguments.posonlyargs[1:] if arguments.posonlyargs else []
        first_plain = arguments.args if arguments.posonlyargs else arguments.args[1:]
        room = len(first_positional_only) + len(first_plain)
        arguments = ast.arguments(
            posonlyargs=first_positional_only,
            args=first_plain,
            vararg=arguments.vararg,
            kwonlyargs=arguments.kwonlyargs,
            kw_defaults=arguments.kw_defaults,
            kwarg=arguments.kwarg,
            defaults=arguments.defaults[max(len(arguments.defaults) - room, 0) :],
        )
    text = ast.unparse(arguments)
    if len(text) > LONGEST_SIGNATURE or "\n" in text:
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
        names += [f"*{arguments.vararg.arg}"] if arguments.vararg else ["*"] if arguments.kwonlyargs else []
        names += [each.arg for each in arguments.kwonlyargs]
        names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
        text = ", ".join(names)
    return text
