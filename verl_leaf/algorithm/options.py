"""Options of estimators: frozen dataclasses whose fields describe their valid values and their meaning."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from verl_leaf.algorithm.arguments import is_count, is_number


@dataclass(frozen=True)
class Values:
    """The valid values of an option.

    Attributes:
        words: description of the valid values for messages.
        contain: function that returns whether a value is valid.
        type: type that a command line gives to the value's text.
        read: function that makes the value from the result of ``type``.
    """

    words: str
    contain: Callable[[Any], bool]
    type: type = str
    read: Callable[[Any], Any] = lambda value: value


COUNTS = Values("integers of 0 or more", is_count, int)
POSITIVE_COUNTS = Values("integers of 1 or more", lambda value: is_count(value) and value > 0, int)
NUMBERS = Values("numbers of 0 or more", is_number, float)
PATHS = Values("the path of a folder, and null", lambda value: value is None or isinstance(value, str))


def one_of(*names: str) -> Values:
    """Return the values of an option that is one of some names."""
    return Values(", ".join(names), lambda value: isinstance(value, str) and value in names)


def option(default: Any, values: Values, help: str, *, only_verl: bool = False) -> Any:
    """Return a field of `Options`; with ``only_verl``, one that other trainers do not have."""
    return field(default=default, metadata={"values": values, "help": help, "only_verl": only_verl})


@dataclass(frozen=True)
class Options:
    """The base class of the options of an estimator, used directly for an estimator without options.

    Raises:
        ValueError: a value is not valid. The message lists the valid ones.
    """

    def __post_init__(self) -> None:
        for name, declared in self.by_name().items():
            value, values = getattr(self, name), declared.metadata["values"]
            if not values.contain(value):
                raise ValueError(f"{name}={value!r} is not valid. Valid values are {values.words}")

    @classmethod
    def by_name(cls) -> dict[str, Field[Any]]:
        """Return the fields by name, without those that are settings of verl with the same name."""
        return {declared.name: declared for declared in fields(cls) if declared.metadata}
