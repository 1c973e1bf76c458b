"""The reward: the share of the letters that is right."""


def share_right(data_source, solution_str: str, ground_truth: str, extra_info=None, **_) -> float:
    """Return the share, from 0 to 1, of the letters in ``ground_truth`` that ``solution_str`` has in the same place."""
    right, given = ground_truth.split(), solution_str.split()
    return sum(a == b for a, b in zip(right, given, strict=False)) / max(len(right), len(given))
