"""The reward: the share of correct words, minus the price of asking."""

from examples.next_letter.reward import share_right

PRICE = 0.2


def worth(data_source, solution_str: str, ground_truth: str, extra_info: dict, **_) -> dict[str, float]:
    """Return -0.2 to 1: the share of words that the last answer has in their place, minus ``PRICE`` if the model asked."""
    right, asked = share_right(data_source, solution_str, ground_truth), bool(extra_info["num_turns"] > 2)
    return {"score": right - PRICE * asked, "right": right, "asked": float(asked)}
