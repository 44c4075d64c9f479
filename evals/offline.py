"""No network, said to every library that would otherwise try it and hang on retries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

_CONSTANTS = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Keep the Hugging Face libraries from the network while the context lasts.

    They read the environment once, at import; where that already happened the constants they keep are set instead.
    """
    if not wanted:
        yield
        return
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    constants = [
        (module, name, getattr(module, name))
        for module_name, name in _CONSTANTS
        if (module := sys.modules.get(module_name)) is not None and hasattr(module, name)
    ]
    os.environ.update(ENVIRONMENT)
    for module, name, _ in constants:
        setattr(module, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for module, name, value in constants:
            setattr(module, name, value)
