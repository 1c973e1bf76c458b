"""verl asks us before it starts anything."""

import pytest
from verl.trainer import main_ppo
from verl.utils import config as verl_config

from verl_leaf.config import compose


def test_verl_finds_nothing_wrong_where_we_do():
    micro_batches = (
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    )
    config = compose("ppo_trainer", ["algorithm.adv_estimator=leaf", "actor_rollout_ref.rollout.n=1", *micro_batches])
    verl_config.validate_config.__wrapped__(config, False, False)
    with pytest.raises(ValueError, match="rollout.n=1: leaf compares"):
        main_ppo.validate_config(config, False, False)
