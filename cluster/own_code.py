"""Find what a ``module:name`` text in a recipe means: code of the user's, from the current folder or installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from cluster.errors import RaymillError, UserError


def load_own(name: str) -> Any:
    """The object of a ``module:name`` text; modules in the current folder are found as well.

    Raises:
        UserError: there is no such module or name, or importing it fails.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except RaymillError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot be imported: {type(error).__name__}: {error}",
            where=name,
            next_step="put the module into the folder where the command runs, or install it on every node",
        ) from error
    if not hasattr(found, attribute):
        raise UserError(f"{module} has nothing called {attribute}", where=name, next_step="check the spelling")
    return getattr(found, attribute)
