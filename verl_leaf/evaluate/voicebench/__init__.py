"""VoiceBench: scores of the subsets that need no judge, and its files of answers."""

from verl_leaf.evaluate.voicebench.files import write_answers
from verl_leaf.evaluate.voicebench.scores import JUDGED, Score, score, subset_of

__all__ = ["JUDGED", "Score", "score", "subset_of", "write_answers"]
