"""Checks of arguments. A wrong call fails at the first statement, with the argument's name."""

import torch
from torch import Tensor


def check(name: str, fine: bool, complaint: str) -> None:
    """Raise ``ValueError`` with the argument's name and the complaint unless ``fine``."""
    if not fine:
        raise ValueError(f"{name} {complaint}")


def check_count(name: str, value: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an int (not a bool) of 0 or more."""
    check(name, is_count(value), f"must be an integer of 0 or more, got {value!r}")


def is_count(value: object) -> bool:
    """Return whether ``value`` is an int (not a bool) of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> bool:
    """Return whether ``value`` is a number (not a bool) from 0 to infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_kappa(value: object) -> bool:
    """Return whether ``value`` is ``"auto"`` or a number from 0 to infinity."""
    return (isinstance(value, str) and value == "auto") or is_number(value)


def check_responses(responses: Tensor, lengths: Tensor, group: Tensor) -> int:
    """Check ``responses [N, T]``, ``lengths [N]`` in ``0 .. T`` and ``group [N]`` of 0 or more, all integers; return ``G``."""
    check_matrix("responses", responses)
    check("responses", _is_integer(responses), f"must contain integers, got {responses.dtype}")
    N, T = responses.shape
    low, high = _check_integers("lengths", lengths, N)
    check("lengths", low >= 0 and high <= T, f"must lie in 0 .. {T}, got {[low, high]}")
    return _check_group(group, N)


def check_terminal_rewards(rewards: Tensor, group: Tensor) -> int:
    """Check ``rewards [N]``, floats, and ``group [N]``, integers of 0 or more, and return ``G``."""
    check("rewards", rewards.dim() == 1, f"must have the shape [N], got {tuple(rewards.shape)}")
    check("rewards", rewards.is_floating_point(), f"must contain floats, got {rewards.dtype}")
    return _check_group(group, len(rewards))


def check_mask(mask: Tensor, responses: Tensor) -> None:
    """Check that ``mask`` has the shape ``[N, T]`` of ``responses``."""
    check_matrix("responses", responses)
    shape = tuple(responses.shape)
    check("mask", tuple(mask.shape) == shape, f"must have the shape {shape} of responses, got {tuple(mask.shape)}")


def check_matrix(name: str, value: Tensor) -> None:
    """Raise ``ValueError`` unless ``value`` has two dimensions."""
    check(name, value.dim() == 2, f"must have the shape [N, T], got {tuple(value.shape)}")


def _check_group(group: Tensor, N: int) -> int:
    low, high = _check_integers("group", group, N)
    check("group", low >= 0, f"must not be negative, got {low}")
    return high + 1 if N else 0


def _check_integers(name: str, values: Tensor, N: int) -> tuple[int, int]:
    """Check ``[N]`` integers, and return the lowest and the highest; 0 if there are none."""
    check(name, values.shape == (N,), f"must have the shape {(N,)}, got {tuple(values.shape)}")
    check(name, _is_integer(values), f"must contain integers, got {values.dtype}")
    low, high = torch.stack([values.amin(), values.amax()]).tolist() if N else (0, 0)
    return int(low), int(high)


def _is_integer(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
