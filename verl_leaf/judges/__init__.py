"""Grading of answers by a language model, through any OpenAI-compatible endpoint."""

from verl_leaf.judges.client import JudgeStopped, Usage
from verl_leaf.judges.judging import Verdict, Verdicts, check_pairs, judge
from verl_leaf.judges.spec import JudgeSpec, read_spec

__all__ = ["JudgeSpec", "JudgeStopped", "Usage", "Verdict", "Verdicts", "check_pairs", "judge", "read_spec"]
