"""A batch of one prompt, as verl's trainers pass it to an estimator, and LEAF's advantages for it."""

import numpy as np
import torch
from tensordict import TensorDict
from verl import DataProto

from verl_leaf.algorithm import leaf_advantages

RESPONSES = [[5, 6, 7, 8], [5, 6, 7], [5, 9, 7, 8], [5, 6, 2, 8]]
REWARDS = [1.0, 0.5, 0.0, 0.8]
LOG_PROBS = torch.tensor([[-0.1, -0.2, -2.0, -0.1]] * 4)


def one_prompt() -> DataProto:
    mask = torch.tensor([[1.0, 1, 1, t < len(response)] for response in RESPONSES for t in [3]])
    rewards = torch.zeros(4, 4)
    rewards[:, 2] = torch.tensor(REWARDS)
    responses = torch.tensor([response + [0] * (4 - len(response)) for response in RESPONSES])
    batch = {
        "responses": responses,
        "response_mask": mask,
        "token_level_rewards": rewards,
        "token_level_scores": rewards,
        "rollout_log_probs": LOG_PROBS,
    }
    uid = np.array(["a"] * 4, dtype=object)
    return DataProto(batch=TensorDict(batch, batch_size=4), non_tensor_batch={"uid": uid}, meta_info={})


def expected(data):
    batch = data.batch
    rewards, mask = batch["token_level_rewards"].sum(-1), batch["response_mask"].bool()
    group = torch.zeros(4, dtype=torch.int64)
    return leaf_advantages(batch["responses"], -batch["rollout_log_probs"], rewards, mask, group).advantages
