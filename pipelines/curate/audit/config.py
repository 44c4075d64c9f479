"""Recipe section ``curate.audit``."""

from __future__ import annotations

from pydantic import Field, field_validator

from cluster.config import StrictModel


class AuditConfig(StrictModel):
    """Count terms for groups of people and toxic terms, and how often they stand close together.

    It changes nothing in the corpus unless ``drop_above`` is set.
    """

    groups: dict[str, dict[str, list[str]]] | None = Field(
        None,
        description="axis -> group -> terms of one to three words; by default Raymill's own English list",
    )
    attributes: dict[str, list[str]] | None = Field(
        None,
        description="list -> terms whose closeness to groups is measured; by default Raymill's own lists",
    )
    toxic: list[str] | None = Field(None, description="toxic terms; by default Raymill's own short English list")
    window_words: int = Field(
        10, ge=1, le=1000, description="words before and after that count as close (Bordia and Bowman 2019: 10)"
    )
    drop_above: float | None = Field(
        None,
        ge=0,
        description="drop documents with more toxic terms than this for each 1,000 words; null: report only",
    )

    @field_validator("groups")
    @classmethod
    def _groups_have_terms(
        cls, value: dict[str, dict[str, list[str]]] | None
    ) -> dict[str, dict[str, list[str]]] | None:
        for axis, groups in (value or {}).items():
            _check_terms({f"{axis}.{group}": terms for group, terms in groups.items()})
        return value

    @field_validator("attributes")
    @classmethod
    def _attributes_have_terms(cls, value: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        _check_terms(value or {})
        return value

    @field_validator("toxic")
    @classmethod
    def _toxic_has_terms(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            _check_terms({"toxic": value})
        return value


def _check_terms(lists: dict[str, list[str]]) -> None:
    for name, terms in lists.items():
        if not terms:
            raise ValueError(f"{name} has no terms")
        for term in terms:
            if not 1 <= len(term.split()) <= 3:
                raise ValueError(f"{name}: {term!r} has not one to three words")
