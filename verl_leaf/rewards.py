"""Rewards for ``reward.custom_reward_function.path=pkg://verl_leaf.rewards``, called by veRL's reward manager."""

import sacrebleu


def sentence_bleu(data_source: str, solution_str: str, ground_truth, extra_info=None, **_) -> dict:
    """Case-sensitive sentence BLEU of the answer, as the paper rewards it (arXiv 2606.07610).

    Args:
        data_source: the row's column, kept beside the score so that dumps of validation tell data sets apart.
        solution_str: the answer.
        ground_truth: one reference, or a list of them.

    Returns:
        ``score`` in [0, 1]: sacrebleu's ``sentence_bleu`` / 100, after stripping and collapsing white space.
    """
    references = [ground_truth] if isinstance(ground_truth, str) else list(ground_truth)
    bleu = sacrebleu.sentence_bleu(_normalise(solution_str), [_normalise(reference) for reference in references])
    return {"score": bleu.score / 100, "data_source": data_source}


def _normalise(text: str) -> str:
    return " ".join(text.split())
