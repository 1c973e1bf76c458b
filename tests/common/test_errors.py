"""What pydantic finds wrong, in a line."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from verl_leaf.common.errors import in_a_line


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = 0
    inner: Inner | None = None
    items: list[int] = []

    @field_validator("number")
    @classmethod
    def small(cls, number: int) -> int:
        if number > 3:
            raise ValueError("must be 3 or less")
        return number


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"number": 4}, "number: '4': must be 3 or less"),
        ({"numbre": 4}, "numbre: there is no such key. The keys are number, inner, items"),
        ({"inner": {}}, "inner.x: is missing"),
        ({"inner": {"x": 1, "y": 2}}, "inner.y: there is no such key"),
        ({"number": 4, "inner": {}}, "number: '4': must be 3 or less; inner.x: is missing"),
    ],
)
def test_each_error_names_key_and_value(values, said):
    with pytest.raises(ValidationError) as invalid:
        Outer.model_validate(values)
    assert in_a_line(invalid.value.errors(), Outer.model_fields) == said


def test_a_thousand_errors_are_a_short_line():
    with pytest.raises(ValidationError) as invalid:
        Outer.model_validate({"items": ["x" * 10_000] * 1000})
    assert len(in_a_line(invalid.value.errors())) < 1000
