"""Options of an estimator: a frozen dataclass whose fields say which values are valid, and what they mean."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from verl_leaf.algorithm.arguments import is_count, is_number


@dataclass(frozen=True)
class Values:
    """The valid values of an option.

    Attributes:
        words: the valid values as a message names them.
        contain: returns whether a value is valid.
        type: what a command line makes of the value's text.
        read: makes the value of what ``type`` gave.
    """

    words: str
    contain: Callable[[Any], bool]
    type: type = str
    read: Callable[[Any], Any] = lambda value: value


COUNTS = Values("the integers from 0 on", is_count, int)
POSITIVE_COUNTS = Values("the integers from 1 on", lambda value: is_count(value) and value > 0, int)
NUMBERS = Values("the numbers from 0 on", is_number, float)
PATHS = Values("the path of a folder, and null", lambda value: value is None or isinstance(value, str))


def one_of(*names: str) -> Values:
    """The values of an option that is one of some names."""
    return Values(", ".join(names), lambda value: isinstance(value, str) and value in names)


def option(default: Any, values: Values, help: str, *, only_verl: bool = False) -> Any:
    """A field of `Options`.

    Args:
        default: its default.
        values: the valid values.
        help: what the option means.
        only_verl: other trainers do not have the option.
    """
    return field(default=default, metadata={"values": values, "help": help, "only_verl": only_verl})


@dataclass(frozen=True)
class Options:
    """The options of an estimator that has none, and the base class of all others.

    Raises:
        ValueError: a value is not valid; the message lists the valid ones.
    """

    def __post_init__(self) -> None:
        for name, declared in self.by_name().items():
            value, values = getattr(self, name), declared.metadata["values"]
            if not values.contain(value):
                raise ValueError(f"{name}={value!r}: valid are {values.words}")

    @classmethod
    def by_name(cls) -> dict[str, Field[Any]]:
        """The fields by their names, except those that are settings of verl under the same name."""
        return {declared.name: declared for declared in fields(cls) if declared.metadata}
