"""The YAML description of a judge."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from typing_extensions import Self

from verl_leaf.common.errors import in_a_line
from verl_leaf.judges.prompts import rubric_text

Kind = Literal["da", "likert", "correct", "pairwise"]
Format = Literal["json", "bare", "prometheus", "judgelm"]
DEFAULT_FORMAT: dict[Kind, Format] = {"da": "json", "likert": "prometheus", "correct": "bare", "pairwise": "prometheus"}

Positive = Annotated[int, Field(ge=1)]
Price = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Prices(_Strict):
    """The prices per million tokens, in any one currency."""

    input: Price
    output: Price


class JudgeSpec(_Strict):
    """The settings of a judge; ``verl_leaf/judges/README.md`` describes each key."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    model: Annotated[str, Field(min_length=1)]
    key_variable: str | None = None
    kind: Kind
    format: Format | None = None
    rubric: str
    samples: Positive = 1
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Positive = 1024
    logprobs: bool = True
    extra_body: dict[str, JsonValue] = {}
    concurrency: Positive = 8
    rate: Annotated[float, Field(gt=0)] | None = None  # calls per minute
    timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds per call
    prices: Prices | None = None
    budget: Annotated[float, Field(gt=0)] | None = None  # in the currency of the prices

    @field_validator("url")
    @classmethod
    def _without_the_path(cls, url: str) -> str:
        try:
            host = httpx.URL(url).host
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from error
        if not host:
            raise ValueError("it contains no host")
        return url.rstrip("/").removesuffix("/chat/completions")

    @field_validator("rubric")
    @classmethod
    def _known_rubric(cls, rubric: str, info) -> str:
        if "kind" in info.data:  # otherwise the kind is invalid
            rubric_text(info.data["kind"], rubric)
        return rubric

    @field_validator("key_variable")
    @classmethod
    def _set(cls, name: str | None) -> str | None:
        key = "x" if name is None else os.environ.get(name, "").strip()
        if not key:
            raise ValueError("the environment variable is not set, or is empty. Export it with the key as its value")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                "the variable's value is not a key, because it contains a character that no header can have"
            )
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.format == "judgelm" and self.kind != "pairwise":
            raise ValueError("format: judgelm grades two answers at once. Set kind to pairwise")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples: {self.samples} replies at temperature 0 would all be the same. Set a temperature above 0"
            )
        if self.budget is not None and self.prices is None:
            raise ValueError("budget: it needs prices. Set those of input and output, per million tokens")
        return self

    @property
    def reply_format(self) -> Format:
        return self.format or DEFAULT_FORMAT[self.kind]

    @property
    def endpoint(self) -> str:
        """Address without user and password."""
        return str(httpx.URL(self.url).copy_with(userinfo=b""))

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password in the address, or None; never written anywhere."""
        url = httpx.URL(self.url)
        return (url.username, url.password) if url.userinfo else None

    @property
    def key(self) -> str | None:
        """Secret key, or None; never written anywhere."""
        return os.environ.get(self.key_variable, "").strip() if self.key_variable else None

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return the cost of this many tokens; 0 without prices."""
        if self.prices is None:
            return 0.0
        return (input_tokens * self.prices.input + output_tokens * self.prices.output) / 1e6


def read_spec(file: Path) -> JudgeSpec:
    """Read a judge's YAML file. Its name is the file's, unless the file sets another.

    Raises:
        ValueError: the file is invalid. The message names file, key and value.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid YAML in UTF-8 ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} contains no keys with values. A judge needs at least url, model, kind and rubric")
    name = re.sub(r"[^\w.-]", "_", file.stem)
    try:
        return JudgeSpec.model_validate({"name": name, **content})
    except ValidationError as invalid:
        raise ValueError(f"{file}: {in_a_line(invalid.errors(), JudgeSpec.model_fields)}") from invalid
