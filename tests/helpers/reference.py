"""The estimators written straight from their definitions, one group of plain Python lists at a time.

It is slow on purpose and shares no code with ``verl_leaf``, because the fast code is compared with it.
"""

from itertools import groupby
from math import sqrt


def select_boundaries(surprisal, policy, fork_budget, min_prefix_tokens):
    """Return the accepted positions in ascending order. ``policy[i][t]``: the policy wrote the token at ``t``."""
    lengths = [len(s) for s in surprisal if len(s) > 0]
    if not lengths or fork_budget == 0:
        return []
    distance = max(2, min(lengths) // (fork_budget + 1))
    pairs = [
        (-s[p], i, p) for i, s in enumerate(surprisal) for p in range(max(1, min_prefix_tokens), len(s)) if policy[i][p]
    ]
    accepted = []
    for _, _, p in sorted(pairs):
        if all(abs(p - q) >= distance for q in accepted):
            accepted.append(p)
        if len(accepted) == fork_budget:
            break
    return sorted(accepted)


def find_nodes(responses, boundary):
    """Return lists of the responses (two or more) that are identical before the boundary. Empty responses have no path."""
    prefix = lambda i: responses[i][:boundary]  # noqa: E731
    rows = sorted((i for i in range(len(responses)) if responses[i]), key=prefix)
    families = [list(same) for _, same in groupby(rows, key=prefix)]
    return [family for family in families if len(family) >= 2]


def mean(values):
    return sum(values) / len(values)


def unbiased_variance(values):
    return sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1) if len(values) > 1 else 0.0


def leaf(responses, surprisal, rewards, fork_budget, min_prefix_tokens, credit, policy=None):
    """Return boundaries, spans ``(start, end, raw, normalised)`` of each response, and advantages of each token."""
    if policy is None:
        policy = [[True] * len(y) for y in responses]
    boundaries = select_boundaries(surprisal, policy, fork_budget, min_prefix_tokens)
    nodes_at = {p: find_nodes(responses, p) for p in boundaries}
    root = mean(rewards)

    def bracket(value, parent):
        return {"both": (value - root) + (value - parent), "global": value - root, "local": value - parent}[credit]

    spans = []
    for i, y in enumerate(responses):
        start, parent, mine = 0, root, []
        for p in boundaries:
            for node in nodes_at[p]:
                if i in node:
                    value = mean([rewards[j] for j in node])
                    mine.append((start, p, bracket(value, parent) / sqrt(len(node))))
                    start, parent = p, value
        if len(y) > start:
            mine.append((start, len(y), bracket(rewards[i], parent)))
        spans.append(mine)

    credits = [a for mine in spans for _, _, a in mine]
    if credits:
        centre = mean(credits)
        std = sqrt(sum((a - centre) ** 2 for a in credits) / (len(credits) - 1)) if len(credits) > 1 else 0.0
        spans = [[(s, e, a, (a - centre) / max(std, 1e-6)) for s, e, a in mine] for mine in spans]

    advantages = [[0.0] * len(y) for y in responses]
    for i, mine in enumerate(spans):
        for s, e, _, z in mine:
            for t in range(s, min(e, len(responses[i]))):
                if policy[i][t]:
                    advantages[i][t] = z
    return boundaries, spans, advantages


def alike(responses, i, t):
    """Return the responses other than i whose first t tokens are those of i."""
    return [k for k, y in enumerate(responses) if k != i and len(y) >= t and y[:t] == responses[i][:t]]


def common_prefix(a, b):
    t = 0
    while t < min(len(a), len(b)) and a[t] == b[t]:
        t += 1
    return t


def kappa_and_early(groups):
    """Return ``kappa`` of a batch, ``early`` and the weight of all groups, over groups of (responses, rewards)."""
    T, W, n = 0.0, 0.0, 0.0  # T and W times n
    for responses, rewards in groups:
        if unbiased_variance(rewards) <= 1e-12:
            continue
        pairs = [(i, k) for i in range(len(rewards)) for k in range(i)]
        prefix = {(i, k): common_prefix(responses[i], responses[k]) for i, k in pairs}
        half_square = {(i, k): (rewards[i] - rewards[k]) ** 2 / 2 for i, k in pairs}
        first = [half_square[pair] for pair in pairs if prefix[pair] == min(prefix.values())]
        later = [half_square[pair] for pair in pairs if prefix[pair] > min(prefix.values())]
        if later:
            weight = len(first) * len(later) / (len(first) + len(later))
            T, W, n = T + weight * mean(first), W + weight * mean(later), n + weight
    if not T:
        return float("inf"), 0.0, n
    tau2 = max(0.0, T - W) / (n + 10)
    sigma2 = max(T / n - tau2, 0.05 * T / n)
    return (sigma2 / tau2 if tau2 else float("inf")), 1 - W / T, n


def grpo_prefix(responses, rewards, kappa):
    """Return baselines and advantages of each token."""
    std, K = sqrt(unbiased_variance(rewards)), len(rewards)
    baselines, advantages = [], []
    for i, y in enumerate(responses):
        b = mean(rewards[:i] + rewards[i + 1 :]) if K > 1 else rewards[i]
        mine, before = [], K - 1
        for t in range(len(y)):
            same = alike(responses, i, t)
            m = len(same)
            if 0 < m < before:
                b += m / (m + kappa) * (mean([rewards[k] for k in same]) - b)
            before = m
            mine.append(b)
        baselines.append(mine)
        advantages.append([(rewards[i] - b) / (std + 1e-6) for b in mine])
    return baselines, advantages


def tempo(responses, rewards):
    """Return advantages of each token; the only response of a group gets those of verl's GRPO."""
    K = len(rewards)
    average, std = (mean(rewards), sqrt(unbiased_variance(rewards))) if K > 1 else (0.0, 1.0)

    def value(i, t):
        return mean([rewards[k] for k in [i, *alike(responses, i, t)]])

    return [
        [(rewards[i] - average + value(i, t + 1) - value(i, t)) / (std + 1e-6) for t in range(len(y))]
        for i, y in enumerate(responses)
    ]


def lambda_grpo(responses, rewards):
    """Return advantages of each token."""
    std = sqrt(unbiased_variance(rewards)) if len(rewards) > 1 else 1.0
    average = mean(rewards) if len(rewards) > 1 else 0.0
    return [
        [(rewards[i] - average) / (std + 1e-6) / (1 + len(alike(responses, i, t + 1))) for t in range(len(y))]
        for i, y in enumerate(responses)
    ]
