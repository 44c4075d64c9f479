"""Prompts made faster, to the same letters: templates compiled once, and each worked example written once.

lm-eval compiles a template for every field of every document, and writes a worked example anew for each question that
it stands before: 25 of them for each question of ARC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WRITTEN = ("doc_to_text", "doc_to_target", "doc_to_choice")


@contextmanager
def compiled_once() -> Iterator[None]:
    """Inside, lm-eval compiles each template once."""
    import lm_eval.utils

    environment = lm_eval.utils.env
    compile_template = environment.from_string

    @functools.lru_cache(maxsize=4096)
    def from_string(source: str) -> Any:
        template = compile_template(source)
        # Every rendering copies the globals; a plain dictionary is copied much faster than the chain they come in.
        template.globals = dict(template.globals)
        return template

    environment.from_string = from_string
    try:
        yield
    finally:
        del environment.from_string  # the class's own shows again


def remember_examples(task: Any) -> None:
    """Let a task write each of its worked examples once.

    Only what templates make is remembered; a function of the task's own is called every time, as it may count or draw.
    """
    from lm_eval.api.task import ConfigurableTask

    if type(task) is not ConfigurableTask or not hasattr(task, "sampler"):
        return
    examples = {id(document): document for document in task.sampler.df}  # held, so that an id stays its own
    for name in WRITTEN:
        if not callable(task.get_config(name)) and task.prompt is None:
            setattr(task, name, _remembering(getattr(task, name), examples))


def _remembering(write: Callable[..., Any], examples: dict[int, Any]) -> Callable[..., Any]:
    known: dict[tuple[int, str | int | None], Any] = {}

    def remembered(document: Any, how: Any = None) -> Any:
        if id(document) not in examples or not (how is None or isinstance(how, (str, int))):
            return write(document, how)
        place = (id(document), how)
        if place not in known:
            known[place] = write(document, how)
        return known[place]

    return remembered
