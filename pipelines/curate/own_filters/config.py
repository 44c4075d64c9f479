"""Recipe section ``curate.filters``."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel


class FilterConfig(StrictModel):
    """One filter of your own; ``module:function`` alone is short for ``{function: module:function}``."""

    function: str = Field(
        description="module:function, importable from the folder where the command runs; it gets a document as a "
        "read-only mapping (id, text, source, path, licence, language, quality_score, metadata) and returns "
        "True or None to keep it, False or a reason in a word to drop it; "
        "a class is made once a worker and then called",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments, of every call or of the class"
    )
    version: int = Field(
        1, ge=1, description="raise it when the code would decide otherwise; code itself is not part of an identity"
    )
    on_error: Literal["refuse", "drop"] = Field(
        "refuse", description="when it raises: refuse stops and names the document, drop counts it as filter.….error"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"function": value} if isinstance(value, str) else value

    @field_validator("function")
    @classmethod
    def _named(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise ValueError(f"{value!r} is not of the form module:function")
        return value
