"""What is redacted, and how carefully: the recipe key ``curate.redact``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel

Redaction = Literal["email", "ip", "phone", "card", "iban", "national_id", "secret"]
PLACEHOLDERS: dict[str, str] = {
    "email": "<EMAIL>",
    "ip": "<IP>",
    "phone": "<PHONE>",
    "card": "<CARD>",
    "iban": "<IBAN>",
    "national_id": "<NATIONAL_ID>",
    "secret": "<SECRET>",
    "name": "<NAME>",
}
"""What stands in the text for each type."""
EVERY_TYPE: tuple[Redaction, ...] = ("email", "ip", "phone", "card", "iban", "national_id", "secret")


class PhoneConfig(StrictModel):
    """Phone numbers, as libphonenumber knows the world's numbering plans."""

    regions: tuple[str, ...] = Field(
        ("US", "GB"),
        description="countries (ISO 3166) whose numbers are found without +country code; each one costs time and "
        "some precision; empty: only numbers with a country code",
    )
    leniency: Literal["possible", "valid", "strict_grouping", "exact_grouping"] = Field(
        "strict_grouping",
        description="libphonenumber's levels: of a possible length; in use; and grouped as written in that country",
    )

    @field_validator("regions")
    @classmethod
    def _codes(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if len(value) != 2 or not value.isalpha() or not value.isupper():
                raise ValueError(f"{value!r} is no country code; write two capitals, such as US")
        return tuple(sorted(set(values)))


class NamesConfig(StrictModel):
    """People's names by a library of your choice; exactly one of the two."""

    library: str | None = Field(
        None,
        pattern=r"^[\w.]+:[\w.]+$",
        description="module:function from a text to the (start, end) of each name, in characters",
    )
    spacy: str | None = Field(None, description="an installed spaCy pipeline, such as en_core_web_sm")

    @model_validator(mode="after")
    def _one(self) -> NamesConfig:
        if (self.library is None) == (self.spacy is None):
            raise ValueError("give either library: module:function or spacy: an installed pipeline")
        return self


class RedactConfig(StrictModel):
    """Personal data and secrets replaced by typed placeholders; a plain list of types is short for ``types``."""

    types: tuple[Redaction, ...] = Field(
        ("email", "ip"),
        description="from email, ip (public addresses only), phone, card, iban, national_id and secret",
    )
    addresses: Literal["strict", "reference"] = Field(
        "strict",
        description="rules for email and ip: strict, or reference: exactly what datatrove's PIIFormatter replaces",
    )
    phone: PhoneConfig = Field(
        default_factory=lambda: PhoneConfig.model_validate({}), description="which phone numbers are found"
    )
    names: NamesConfig | None = Field(None, description="people's names, by a library; null leaves them")

    @model_validator(mode="before")
    @classmethod
    def _list_of_types(cls, value: Any) -> Any:
        if value is None:
            return {"types": []}
        return {"types": value} if isinstance(value, (list, tuple)) else value

    @field_validator("types")
    @classmethod
    def _no_repeats(cls, values: tuple[Redaction, ...]) -> tuple[Redaction, ...]:
        return tuple(each for each in EVERY_TYPE if each in values)
