# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Where the responses to a prompt share a prefix, and what that says about their tokens: LEAF (arXiv 2606.07610) and a
prefix baseline for GRPO. See docs/algo/leaf.md.

Everything is computed with numpy, in float64 and one prompt at a time. K is the number of responses to a prompt, T the
width of the batch, both in the comments on shapes.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch

CREDITS = ("both", "global", "local")
STD_FLOOR = 1e-6
# For estimate_kappa: a group's rewards differ if their variance is larger; the variance between nodes is taken in full
# where the weight of all pairs is far larger than this; the least variance within a node, as a share of all.
LEAST_VARIANCE = 1e-12
PRIOR_PAIRS = 10
LEAST_WITHIN = 0.05


@dataclass(frozen=True)
class ResponseGroup:
    """The responses to one prompt.

    Args:
        rows: (K,), where they stand in the batch.
        tokens: (K, T), token ids.
        lengths: (K,), everything up to the last token of the response.
        mask: (K, T), whether the token is trained on: the policy wrote it, and it was not rejected.
        rewards: (K,), float64.
        surprisal: (K, T), float64, minus the log-probability of each token, or None.
        common: (K, K), the number of tokens that two responses share before they part or one of them ends.
    """

    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    mask: np.ndarray
    rewards: np.ndarray
    surprisal: Optional[np.ndarray]
    common: np.ndarray

    @property
    def reward_std(self) -> float:
        """The unbiased standard deviation of the rewards; 0 for a single response."""
        return float(self.rewards.std(ddof=1)) if len(self.rewards) > 1 else 0.0


def response_groups(
    responses: torch.Tensor,
    response_mask: torch.Tensor,
    rewards: torch.Tensor,
    index: np.ndarray,
    surprisal: Optional[torch.Tensor] = None,
    attention_mask: Optional[torch.Tensor] = None,
) -> list[ResponseGroup]:
    """Split a batch into the groups of its prompts.

    Args:
        responses: `(torch.Tensor)`
            shape is (bs, response_length)
        response_mask: `(torch.Tensor)`
            shape is (bs, response_length)
        rewards: `(torch.Tensor)`
            shape is (bs,)
        index: `(np.ndarray)`
            index array for grouping
        surprisal: `(Optional[torch.Tensor])`
            shape is (bs, response_length)
        attention_mask: `(Optional[torch.Tensor])`
            shape is (bs, prompt_length + response_length). It tells where responses end, also of those that rejection
            sampling took out of `response_mask`. Without it, they end at the last token in `response_mask`.

    Returns:
        `(list[ResponseGroup])`: one for each prompt.

    Raises:
        ValueError: the surprisal of a token in `response_mask` is NaN.
    """
    tokens, mask = responses.cpu().numpy(), response_mask.bool().cpu().numpy()
    rewards = rewards.double().cpu().numpy()
    if surprisal is not None:
        surprisal = surprisal.double().cpu().numpy()
        if np.isnan(surprisal[mask]).any():
            raise ValueError("log-probabilities of responses hold NaN: the actor or the rollout engine has diverged.")
    width = mask.shape[1]
    attended = mask
    if attention_mask is not None:
        attended = attention_mask[:, attention_mask.shape[1] - width :].bool().cpu().numpy()
    lengths = (attended * np.arange(1, width + 1)).max(axis=1, initial=0)

    rows_of = defaultdict(list)
    for row, uid in enumerate(index):
        rows_of[uid].append(row)
    return [
        ResponseGroup(
            rows=rows,
            tokens=tokens[rows],
            lengths=lengths[rows],
            mask=mask[rows],
            rewards=rewards[rows],
            surprisal=None if surprisal is None else surprisal[rows],
            common=_common_prefixes(tokens[rows], lengths[rows]),
        )
        for rows in map(np.array, rows_of.values())
    ]


def _common_prefixes(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(K, K), the number of tokens that two responses share before they part or one of them ends."""
    common = np.minimum(lengths[:, None], lengths[None, :])
    for row in range(len(tokens)):
        differ = tokens != tokens[row]
        first = np.where(differ.any(axis=1), differ.argmax(axis=1), tokens.shape[1])
        common[row] = np.minimum(common[row], first)
    return common


def leaf_advantages(
    group: ResponseGroup, fork_budget: int = 2, min_prefix_tokens: int = 1, credit: str = "both"
) -> np.ndarray:
    """Compute the advantages of LEAF.

    Responses are cut where their tokens are least likely (`select_boundaries`). Those that are identical before a cut
    share a node, of which V is the mean reward; V0 is that of the whole group. The span of a response that ends at a
    node v of n responses, with u the node before it (or the whole group), is credited with

        ([V(v) - V0] + [V(v) - V(u)]) / sqrt(n)

    and its tail, of reward r, with [r - V0] + [r - V(last node)]. The credits are normalized over all spans of the
    group.

    Args:
        group: the responses to a prompt.
        fork_budget: the most positions at which they are cut.
        min_prefix_tokens: the earliest of them.
        credit: "both", or one of the brackets alone: "global" (against V0) or "local" (against V(u)).

    Returns:
        `(np.ndarray)`: shape is (K, T)

    Raises:
        ValueError: `credit` is none of these.
    """
    if credit not in CREDITS:
        raise ValueError(f"algorithm.leaf.credit={credit!r}: must be one of {', '.join(CREDITS)}.")
    rewards = group.rewards - group.rewards.min()  # so that equal rewards give credits of exactly 0
    root = rewards.mean()

    def compare(value: float, parent: float) -> float:
        return (credit != "local") * (value - root) + (credit != "global") * (value - parent)

    boundaries = select_boundaries(group, fork_budget, min_prefix_tokens)
    spans, credits = [], []
    for row, length in enumerate(group.lengths):
        if length == 0:
            continue
        start, parent = 0, root
        identical = (group.common[row] == length) & (group.lengths == length)
        for boundary in boundaries:
            node = (group.common[row] >= boundary) | identical
            if node.sum() < 2:
                break
            value = rewards[node].mean()
            spans.append((row, start, boundary))
            credits.append(compare(value, parent) / np.sqrt(node.sum()))
            start, parent = boundary, value
        if start < length:
            spans.append((row, start, length))
            credits.append(compare(rewards[row], parent))

    advantages = np.zeros(group.tokens.shape)
    if not spans:
        return advantages
    credits = np.array(credits) - np.mean(credits)
    std = credits.std(ddof=1) if len(credits) > 1 else 0.0
    for (row, start, end), value in zip(spans, credits / max(std, STD_FLOOR), strict=True):
        advantages[row, start:end] = value
    return advantages * group.mask


def select_boundaries(group: ResponseGroup, fork_budget: int, min_prefix_tokens: int) -> list[int]:
    """Choose where to cut: before the least likely tokens, at a distance from each other.

    Args:
        group: the responses to a prompt, with their surprisal.
        fork_budget: the most positions.
        min_prefix_tokens: the earliest of them.

    Returns:
        `(list[int])`: positions in ascending order; responses are cut before that token.
    """
    position = np.arange(group.tokens.shape[1])
    allowed = group.mask & (position >= max(1, min_prefix_tokens))
    score = np.where(allowed, group.surprisal, -np.inf)
    if score.size == 0 or not group.lengths.any():
        return []
    distance = max(2, group.lengths[group.lengths > 0].min() // (fork_budget + 1))
    chosen = []
    while len(chosen) < fork_budget:
        best = score.argmax()  # of equals the first response, and its first token
        if score.flat[best] == -np.inf:
            break
        chosen.append(int(best % score.shape[1]))
        score[:, abs(position - chosen[-1]) < distance] = -np.inf
    return sorted(chosen)


def prefix_baselines(group: ResponseGroup, kappa: float) -> np.ndarray:
    """Compute a baseline for each token from the other responses with the same text up to there.

    It starts as the mean reward of the others. Wherever some of those that were alike so far part from the response,
    and m of them, of mean reward V, remain, it moves by m / (m + kappa) of the way to V. So it depends on the text
    before the token and on other responses alone, and leaves the policy gradient unbiased.

    Args:
        group: the responses to a prompt.
        kappa: 0 for the mean of those that remain, infinity for the mean of all others.

    Returns:
        `(np.ndarray)`: shape is (K, T). That of a single response is its reward.
    """
    baselines = np.repeat(group.rewards[:, None], group.tokens.shape[1], axis=1)
    for row in range(len(group.rewards) if len(group.rewards) > 1 else 0):
        others = np.arange(len(group.rewards)) != row
        baselines[row] = baseline = group.rewards[others].mean()
        for shared in np.unique(group.common[row, others]):
            alike = others & (group.common[row] > shared)
            m = alike.sum()
            if m:
                baseline += m / (m + kappa) * (group.rewards[alike].mean() - baseline)
                baselines[row, shared + 1 :] = baseline
    return baselines


def estimate_kappa(groups: list[ResponseGroup]) -> float:
    """Estimate from a batch how much a longer prefix says about the reward: the empirical Bayes weight of its mean.

    Args:
        groups: of all prompts.

    Returns:
        `(float)`: the variance of rewards within a node over that between nodes; infinity if it says nothing.
    """
    total, within, weight = 0.0, 0.0, 0.0
    for group in groups:
        pairs = np.triu_indices(len(group.rewards), 1)
        spread = (group.rewards[pairs[0]] - group.rewards[pairs[1]]) ** 2 / 2
        late = group.common[pairs] > group.common[pairs].min(initial=group.common.max())
        if group.reward_std**2 > LEAST_VARIANCE and late.any():
            # The same weight for both means, so that prompts may differ in variance and in where they part.
            own = late.sum() * (~late).sum() / len(late)
            total += own * spread[~late].mean()
            within += own * spread[late].mean()
            weight += own
    between = max(0.0, total - within) / (weight + PRIOR_PAIRS)
    return max(total / weight - between, LEAST_WITHIN * total / weight) / between if between else np.inf
