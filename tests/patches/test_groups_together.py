"""The rollouts of a prompt stay on a rank where prompts are shared."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync

from verl_leaf.patches.groups_together import in_order
from verl_leaf.training.sharing import SHARE_PROMPTS


def balanced(share: bool) -> list[str]:
    """The prompts of two ranks' rows, in verl's order, where the first prompt's rollouts are all long."""
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    settings = {
        "actor_rollout_ref": {
            "model": {"override_config": {SHARE_PROMPTS: share}},
            "rollout": {"n": 4},
            "actor": {"ppo_mini_batch_size": 2, "use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 1},
        },
    }
    trainer.config = OmegaConf.create(settings)
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})
    trainer.tokenizer = SimpleNamespace(eos_token_id=0)
    trainer._get_required_batch_multiple = lambda ranks: ranks
    lengths = [400, 410, 420, 430, 10, 11, 12, 13]
    keys = [f"{prompt}_{number}_0" for prompt in "ab" for number in range(4)]
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[{"seq_len": length} for length in lengths])
    return [key[0] for key in trainer._balance_batch(batch, {}).keys]


def test_a_rank_gets_whole_prompts_where_they_are_shared():
    assert balanced(share=True) == list("aaaabbbb")
    assert sorted(balanced(share=False)[:4]) == list("aabb")


def test_rows_that_do_not_divide_are_refused():
    assert in_order([5, 1, 1, 1], 2, True) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="3 rows cannot be dealt out equally to 2 ranks"):
        in_order([1, 1, 1], 2, True)
