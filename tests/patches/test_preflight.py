"""verl asks us before it starts anything."""

import pytest
from hydra import compose, initialize_config_module
from verl.trainer import main_ppo
from verl.utils import config as verl_config


def test_verl_finds_nothing_wrong_where_we_do():
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", ["algorithm.adv_estimator=leaf", "actor_rollout_ref.rollout.n=1"])
    with pytest.raises(ValueError, match=r"rollout.n=1: leaf compares"):
        verl_config.validate_config(config, False, False)
    try:
        verl_config.validate_config.__wrapped__(config, False, False)
    except Exception as error:
        assert "leaf" not in str(error)
    assert main_ppo.validate_config is verl_config.validate_config  # imported there before or after, it is ours
