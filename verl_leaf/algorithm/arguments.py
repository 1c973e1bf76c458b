"""Checks of arguments: a wrong call ends at the first statement, with the argument's name."""

import torch
from torch import Tensor


def check(name: str, fine: bool, complaint: str) -> None:
    """Raises ``ValueError`` with the argument's name and the complaint unless ``fine``."""
    if not fine:
        raise ValueError(f"{name} {complaint}")


def check_count(name: str, value: int) -> None:
    """Raises ``ValueError`` unless ``value`` is an int (no bool) of 0 or more."""
    check(name, is_count(value), f"must be an integer of 0 or more, got {value!r}")


def is_count(value: object) -> bool:
    """Return whether ``value`` is an int (no bool) of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> bool:
    """Return whether ``value`` is a number (no bool) from 0 to infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_kappa(value: object) -> bool:
    """Return whether ``value`` is ``"auto"`` or a number from 0 to infinity."""
    return (isinstance(value, str) and value == "auto") or is_number(value)


def check_responses(responses: Tensor, lengths: Tensor, group: Tensor) -> int:
    """Checks ``responses [N, T]``, ``lengths [N]`` in ``0 .. T`` and ``group [N]`` from 0 on, all integers.

    Returns:
        ``G``, the number of groups.
    """
    check_matrix("responses", responses)
    check("responses", _is_integer(responses), f"must hold integers, got {responses.dtype}")
    N, T = responses.shape
    for name, value in (("lengths", lengths), ("group", group)):
        check(name, value.shape == (N,), f"must have the shape {(N,)}, got {tuple(value.shape)}")
        check(name, _is_integer(value), f"must hold integers, got {value.dtype}")
    if not N:
        return 0
    extremes = torch.stack([x.long() for x in (group.amin(), group.amax(), lengths.amin(), lengths.amax())]).tolist()
    check("group", extremes[0] >= 0, f"must not be negative, got {extremes[0]}")
    check("lengths", extremes[2] >= 0 and extremes[3] <= T, f"must lie in 0 .. {T}, got {extremes[2:]}")
    return int(extremes[1]) + 1


def check_terminal_rewards(rewards: Tensor, group: Tensor) -> int:
    """Checks ``rewards [N]``, floats, and ``group [N]``, integers from 0 on.

    Returns:
        ``G``, the number of groups.
    """
    check("rewards", rewards.dim() == 1, f"must have the shape [N], got {tuple(rewards.shape)}")
    check("rewards", rewards.is_floating_point(), f"must hold floats, got {rewards.dtype}")
    check(
        "group", group.shape == rewards.shape, f"must have the shape {tuple(rewards.shape)}, got {tuple(group.shape)}"
    )
    check("group", _is_integer(group), f"must hold integers, got {group.dtype}")
    if not rewards.numel():
        return 0
    lowest, highest = torch.stack([group.amin(), group.amax()]).tolist()
    check("group", lowest >= 0, f"must not be negative, got {lowest}")
    return int(highest) + 1


def check_mask(mask: Tensor, responses: Tensor) -> None:
    """Checks that ``mask`` has the shape ``[N, T]`` of ``responses``."""
    check_matrix("responses", responses)
    shape = tuple(responses.shape)
    check("mask", tuple(mask.shape) == shape, f"must have the shape {shape} of responses, got {tuple(mask.shape)}")


def check_matrix(name: str, value: Tensor) -> None:
    """Raises ``ValueError`` unless ``value`` has two dimensions."""
    check(name, value.dim() == 2, f"must have the shape [N, T], got {tuple(value.shape)}")


def _is_integer(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
