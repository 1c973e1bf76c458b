"""verl's V1 trainers give LEAF the responses, log what it says, keep prompts together, and count skipped updates."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo import padding_utils
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, trainer_base
from verl.trainer.ppo.v1.utils import MetricsAggregator
from verl.utils.tensordict_utils import make_iterator

from tests.helpers.one_prompt import LOG_PROBS, RESPONSES, REWARDS, expected, one_prompt
from verl_leaf.config import least_multiple, prompts_per_mini_batch
from verl_leaf.patches.update_counts import SKIPPED, UPDATES
from verl_leaf.patches.v1_trainer import V1TrainerMixin, deal, in_words
from verl_leaf.training import estimator
from verl_leaf.training.sharing import SHARE_PROMPTS
from verl_leaf.training.traces.writer import TraceWriter


@pytest.fixture
def data():
    return one_prompt()


def balanced(keys: list[str], ranks: int, n: int, prompts: int, share: bool = True) -> KVBatchMeta:
    """The batch as verl's trainer hands it to the ranks; what the queue does with fillers is left out."""
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    actor = {"ppo_mini_batch_size": prompts, "use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 1}
    settings = {
        "actor_rollout_ref": {
            "model": {"override_config": {SHARE_PROMPTS: share}},
            "rollout": {"n": n},
            "actor": actor,
        },
        "trainer": {"critic_warmup": 0},
    }
    trainer.config = OmegaConf.create(settings)
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": list(range(ranks))})
    trainer.tokenizer = SimpleNamespace(eos_token_id=0)
    trainer.use_critic, trainer.global_steps = False, 1
    lengths = [400 if key[0] == "0" else 10 for key in keys]
    tags = [{"seq_len": length} for length in lengths]
    return trainer._balance_batch(KVBatchMeta(partition_id="train", keys=keys, tags=tags), {})


@pytest.mark.parametrize("save_freq, saved, ran", [(200, [3], 3), (-1, [], 6)])
def test_a_run_that_is_told_to_stop_saves_its_step_and_ends(tmp_path, monkeypatch, save_freq, saved, ran):
    """Through verl's own loop; only what a step, a checkpoint and the logs do is left out."""
    nothing = SimpleNamespace(
        init=lambda _: None, set_step=lambda _: None, kv_clear=lambda **_: None, log=lambda **_: None
    )
    for name in ("Tracking", "ValidationGenerationsLogger", "DapoFilteredRewardTableLogger"):
        monkeypatch.setattr(trainer_base, name, lambda **_: nothing)
    for name in ("SkipManager", "tq"):
        monkeypatch.setattr(trainer_base, name, nothing)
    below = PPOTrainerSync.__mro__[PPOTrainerSync.__mro__.index(V1TrainerMixin) + 1]
    steps, written = [], []

    def step(self, metrics, timing_raw):
        steps.append(self.global_steps)
        if self.global_steps == 3:
            (tmp_path / "stop").touch()
        return KVBatchMeta(partition_id="train", keys=[], tags=[])

    monkeypatch.setattr(below, "step", step)
    for name in (
        "_reissue_inflight_prompts",
        "_start_profiling",
        "_stop_profiling",
        "_compute_metrics",
        "_shutdown_dump_executor",
    ):
        monkeypatch.setattr(below, name, lambda *_, **__: None)
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    monkeypatch.setattr(below, "_save_checkpoint", lambda self: written.append(self.global_steps))
    monkeypatch.setattr(below, "_validate", lambda self: pytest.fail("no time to validate"))
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    settings = {
        "save_freq": save_freq,
        "test_freq": 3 if saved else -1,
        "default_local_dir": str(tmp_path),
        "total_epochs": 9,
    }
    settings |= {"val_before_train": False, "project_name": "", "experiment_name": "", "logger": []}
    trainer.config = OmegaConf.create({"trainer": settings, "global_profiler": {"steps": None}})
    trainer.global_steps, trainer.total_training_steps, trainer.steps_per_epoch = 0, 6, 100
    trainer.fit(None)
    assert steps == list(range(1, ran + 1)) and written == saved


@pytest.fixture
def no_queue(monkeypatch):
    row = {"prompts": torch.ones(1), "responses": torch.ones(1)}
    queue = SimpleNamespace(kv_batch_get=lambda **_: [row], kv_batch_put=lambda **_: None)
    monkeypatch.setattr(padding_utils, "tq", queue)


def updates_of(batch: KVBatchMeta, ranks: int, size: int) -> list[list[str]]:
    """The prompts of the rows of each update over all ranks, as verl's workers cut their parts of a batch."""
    updates: list[list[str]] = [[] for _ in range(len(batch.keys) // size)]
    for part in batch.chunk(ranks):
        uids = [key.rsplit("_", 2)[0] for key in part.keys]
        rows = TensorDict({"row": torch.arange(len(uids))}, [len(uids)])
        own = make_iterator(rows, size // ranks, epochs=1, seed=1, dataloader_kwargs={"shuffle": False})
        for update, mini_batch in zip(updates, own, strict=True):
            update += [uids[row] for row in mini_batch["row"].tolist()]
    return updates


RANKS = [*range(1, 17), 32, 64]


@pytest.mark.parametrize("failed", ["none", "one prompt", "some responses"])
@pytest.mark.parametrize("n", [4, 8, 16])
@pytest.mark.parametrize("ranks", RANKS)
def test_mini_batches_are_whole_prompts_on_any_number_of_ranks(no_queue, ranks, n, failed):
    """Responses come in the order in which they ended, those of different prompts among each other."""
    prompts = prompts_per_mini_batch(n, ranks, 1)
    number = least_multiple(6, prompts)
    keys = [f"{prompt}_{response}_0" for response in range(n) for prompt in range(number)]
    if failed == "one prompt":
        keys = [key for key in keys if not key.startswith("1_")]
    elif failed == "some responses":
        keys = [key for key in keys if not key.startswith(("0_1_", "2_0_", "2_3_"))]
    batch = balanced(keys, ranks, n, prompts)
    updates = updates_of(batch, ranks, n * prompts)
    own = list(dict.fromkeys(key.rsplit("_", 2)[0] for key in keys))
    assert len(updates) == -(-len(own) // prompts)
    counts = Counter(key.rsplit("_", 2)[0] for key in keys)
    for number, update in enumerate(updates):
        expected = own[number * prompts :][:prompts]
        assert Counter(uid for uid in update if not uid.startswith("pad")) == {uid: counts[uid] for uid in expected}
    one = updates_of(balanced(keys, 1, n, prompts), 1, n * prompts)
    real = [[uid for uid in update if not uid.startswith("pad")] for update in updates]
    assert real == [[uid for uid in update if not uid.startswith("pad")] for update in one]
    if failed == "none":  # so that a rank computes a prompt once
        share = n * prompts // ranks
        for update in updates:
            assert all(len(set(update[first : first + share])) == 1 for first in range(0, n * prompts, share))


def test_only_shared_prompts_are_kept_together():
    keys = [f"{prompt}_{response}_0" for prompt in range(2) for response in range(4)]
    assert [key[0] for key in balanced(keys, 2, 4, 1).keys] == list("00110011")
    assert sorted(key[0] for key in balanced(keys, 2, 4, 1, share=False).keys[:4]) == list("0011")


def test_sessions_with_several_outputs_fill_verls_mini_batches(no_queue):
    keys = [f"{prompt}_{response}_{output}" for output in range(3) for prompt in "ab" for response in range(2)]
    updates = updates_of(balanced(keys, 2, 2, 1), 2, 2)
    assert updates == [["a", "a"]] * 3 + [["b", "b"]] * 3


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="a mini-batch of 4 rows cannot be shared equally by 3 ranks"):
        deal([[0, 1, 2, 3]], 4, [1] * 4, 3, True)


def test_the_critics_fillers_come_last():
    assert deal([[0, 2], [1, 3]], 2, [1] * 6, 2, True) == [[0, 1, 4], [2, 3, 5]]


@pytest.mark.parametrize("kind", [PPOTrainerSync, PPOTrainerColocateAsync, PPOTrainerSeparateAsync])
def test_updates_that_verl_skips_are_counted(kind):
    metrics = updated(kind, [0.5, math.nan, 1.5, math.inf])
    assert math.isnan(metrics["actor/grad_norm"])  # all that verl would leave of it
    assert (metrics[UPDATES], metrics[SKIPPED], metrics["actor/loss"]) == (4, 2, 2.0)


def updated(kind, norms: list[float]) -> dict:
    """The metrics of an update of the actor whose gradients have these norms: what the actor does is left out."""
    trainer = kind.__new__(kind)
    actor = {"ppo_mini_batch_size": 2, "calculate_entropy": False, "entropy_coeff": 0.0, "ppo_epochs": 1}
    actor |= {"data_loader_seed": 1, "shuffle": False}
    rollout = {"n": 4, "temperature": 1.0}
    trainer.config = OmegaConf.create({"actor_rollout_ref": {"actor": actor, "rollout": rollout}, "distillation": None})
    returned = {"metrics": {"grad_norm": list(norms), "loss": [1.0, 3.0], "mfu": [0.0]}}
    trainer.actor_rollout_wg = SimpleNamespace(update_actor=lambda batch: returned)
    metrics: dict = {}
    trainer._update_actor(SimpleNamespace(extra_info={}), metrics)
    return metrics


def test_the_parts_of_a_step_add_up():
    aggregator = MetricsAggregator()
    for norms in ([1.0, 2.0], [math.nan, 1.0]):
        aggregator.add_step_metrics(updated(PPOTrainerSync, norms), sample_count=8)
    total = aggregator.get_aggregated_metrics()
    assert (total[UPDATES], total[SKIPPED]) == (4, 1)


def test_a_trainer_of_ones_own_gets_it_too():
    class Own(trainer_base.PPOTrainer):
        """Registered later than verl's."""

    assert issubclass(trainer_base.register_trainer("own")(Own), V1TrainerMixin)
    assert trainer_base.get_trainer_cls(name="own") is trainer_base.TRAINER_REGISTRY.pop("own")
    for trainer in trainer_base.TRAINER_REGISTRY.values():
        assert issubclass(trainer, V1TrainerMixin)


def test_ray_sends_trainers_by_reference():
    for trainer in (trainer_base.PPOTrainer, PPOTrainerSync):
        assert ray.cloudpickle.loads(ray.cloudpickle.dumps(trainer)) is trainer
        assert len(ray.cloudpickle.dumps(trainer)) < 200


def test_a_prompt_is_named_without_its_bytes():
    clip = {"type": "audio", "audio": {"bytes": b"RIFF", "path": "a.wav"}}
    samples = {"type": "audio", "audio": {"array": [0.0], "sampling_rate": 16000}}
    content = [clip, samples, {"type": "audio", "audio": "/b.wav"}, {"type": "text", "text": "and?"}]
    messages = [{"role": "system", "content": "Listen."}, {"role": "user", "content": content}]
    assert in_words(messages) == "'Listen. a.wav (audio) /b.wav and?'"
    assert in_words([{"role": "user", "content": "x" * 301}]) == repr("x" * 300 + "...")


@pytest.fixture
def trainer(queue, data, monkeypatch):
    """verl's V1 trainer as it computes advantages, its batch in a real queue: what other steps need is left out."""
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)
    algorithm = {"adv_estimator": "leaf", "use_kl_in_reward": False, "gamma": 1.0, "lam": 1.0, "leaf": {}}
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 4}}})
    trainer.global_steps, trainer.local_trigger_step, trainer.tokenizer = 10, 0, None
    trainer.leaf_traces = TraceWriter()
    monkeypatch.setattr(trainer_base, "tq", queue)

    def put(rewards=REWARDS):
        lengths = [len(response) for response in RESPONSES]

        def nested(rows):
            return torch.nested.as_nested_tensor(
                [torch.as_tensor(row)[:n] for row, n in zip(rows, lengths, strict=True)], layout=torch.jagged
            )

        scores = torch.zeros(4, 4)
        scores[:, 2] = torch.tensor(rewards)
        fields = TensorDict(
            {
                "responses": nested(data.batch["responses"]),
                "response_mask": nested(torch.ones(4, 4)),
                "rm_scores": nested(scores),
                "rollout_log_probs": nested(LOG_PROBS),
                "old_log_probs": nested(LOG_PROBS),
                "prompts": torch.nested.as_nested_tensor([torch.tensor([1, 2])] * 4, layout=torch.jagged),
            },
            batch_size=4,
        )
        for name, value in {
            "uid": "a",
            "raw_prompt": [{"role": "user", "content": "Was ist das?"}],
            "data_source": "test",
            "reward_model": {"ground_truth": "ja"},
        }.items():
            fields[name] = np.array([value] * 4 + [None], dtype=object)[:4]
        tags = [{"seq_len": 6}] * 4
        return queue.kv_batch_put(keys=[f"a_{n}_0" for n in range(4)], partition_id="train", fields=fields, tags=tags)

    yield SimpleNamespace(trainer=trainer, put=put, queue=queue)
    queue.kv_clear(keys=[f"a_{n}_0" for n in range(4)], partition_id="train")


@pytest.mark.e2e
def test_the_v1_trainer_gets_leafs_advantages_and_metrics(trainer, data, monkeypatch):
    batch, metrics, made = trainer.put(), {}, []
    original = trainer_base.compute_advantage_for_multi_trajectories

    def compute(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[0]

    monkeypatch.setattr(trainer_base, "compute_advantage_for_multi_trajectories", compute)
    result = trainer.trainer._compute_advantage(batch, metrics)
    assert metrics["leaf/boundaries_per_prompt"] == 1
    stored = trainer.queue.kv_batch_get(keys=result.keys, partition_id="train", select_fields=["advantages"])
    torch.testing.assert_close(stored["advantages"].to_padded_tensor(0.0), expected(data))
    assert trainer_base.compute_advantage_for_multi_trajectories is compute
    # Or a verl with pull request 7497 would write them into the queue.
    assert {"advantages", "returns"} < set(made[0].batch.keys()) and not {
        "responses",
        "attention_mask",
        "written_mask",
    } & set(made[0].batch.keys())


@pytest.mark.e2e
def test_a_response_that_is_rejected_stays_in_the_tree_of_the_v1_trainer(trainer, data, monkeypatch):
    """The shorter one, which LEAF would take for empty; and the tokens of the others at which LEAF cuts."""
    batch, mask = trainer.put(), torch.ones(4, 4)
    mask[1] = 0
    mask[:, 2] = 0

    def reject(data, config):
        data.batch["response_mask"] = data.batch["response_mask"] * mask
        return data, {}

    monkeypatch.setattr(trainer_base, "compute_rollout_correction_and_add_to_batch", reject)
    trainer.trainer.config.algorithm.rollout_correction = {"rollout_rs": "seq_mean_k1"}
    result = trainer.trainer._compute_advantage(batch, {})
    stored = trainer.queue.kv_batch_get(keys=result.keys, partition_id="train", select_fields=["advantages"])
    torch.testing.assert_close(stored["advantages"].to_padded_tensor(0.0), expected(data) * mask)


@pytest.mark.e2e
def test_several_outputs_of_a_session_are_refused(trainer):
    batch = trainer.put()
    batch.keys[1] = "a_0_1"
    with pytest.raises(
        ValueError, match="adv_estimator=leaf cannot be combined with an agent loop that has several outputs"
    ):
        trainer.trainer._compute_advantage(batch, {})


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*estimator.ESTIMATORS, "grpo"])
def test_a_reward_that_is_not_finite_names_its_prompt(trainer, name):
    trainer.trainer.config.algorithm.adv_estimator = name
    batch = trainer.put(rewards=[1.0, 0.5, float("inf"), 0.8])
    with pytest.raises(estimator.RewardError, match="row 2, prompt a, is inf, .*The prompt: .*Was ist das"):
        trainer.trainer._compute_advantage(batch, {})
