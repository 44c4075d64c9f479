"""At which tokens a model that writes has said what it had to say: what its folder must tell whoever serves it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from pipelines.tokens.marks import read_marks
from pipelines.tokens.special import END

GENERATION = "generation_config.json"


def stop_ids(tokenizer_folder: Path) -> list[int]:
    """Ids at which generation ends: the end of a document, and what marks the end of an answer, where something does.

    The first is the end of a document.
    """
    from transformers import PreTrainedTokenizerFast

    ends = ends_of(PreTrainedTokenizerFast.from_pretrained(tokenizer_folder))
    tokens = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    known = {token["content"]: int(token["id"]) for token in tokens}
    own = [known[END]] if END in known else []
    return united([read_marks(tokenizer_folder).eos], own, ends)


def ends_of(tokenizer: Any, template: str | None = None) -> list[int]:
    """The special token that a chat template puts behind an answer; nothing where it puts none.

    Args:
        template: the tokenizer's own where it is None.
    """
    if template is None and not tokenizer.chat_template:
        return []
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant")]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, chat_template=template)).rstrip()
    except TemplateError:  # it wants other turns than a question and its answer, and says so with the first row
        return []
    found = {each.content: number for number, each in tokenizer.added_tokens_decoder.items()}
    ends = [content for content in found if text.endswith(content)]
    return [int(found[max(ends, key=len)])] if ends else []


def given_stops(settings: Any) -> list[int]:
    """``eos_token_id`` of a generation's settings as a list."""
    found = settings.get("eos_token_id") if isinstance(settings, dict) else getattr(settings, "eos_token_id", None)
    return [] if found is None else [int(each) for each in (found if isinstance(found, list) else [found])]


def stops_of(folder: Path) -> list[int]:
    """Where whoever serves a model's folder stops."""
    path = folder / GENERATION
    if not path.exists():
        path = folder / "config.json"
    return united([read_marks(folder).eos], given_stops(json.loads(path.read_text(encoding="utf-8"))))


def note_stops(folder: Path) -> None:
    """Tell whoever serves a model's folder of all :func:`stop_ids` that its tokenizer has by now."""
    path = folder / GENERATION
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["eos_token_id"] = united(given_stops(settings), stop_ids(folder))
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def united(*groups: Iterable[int]) -> list[int]:
    """Every id once, in the order of their first mention."""
    return list(dict.fromkeys(each for group in groups for each in group))
