"""The adapter for OpenRLHF, with its real classes. ``bash tests/adapters/run.sh openrlhf`` runs it.

Left out, since it needs a GPU: vLLM (transformers generates instead), FlashAttention, DeepSpeed's engine and the Ray
actors around the model (OpenRLHF's `Actor` is called in this process). conftest.py has what stands for the first two.
"""

import sys
import types

import pytest

pytest.importorskip("openrlhf")

import openrlhf.utils
import ray
import torch
from openrlhf.models import Actor, PolicyLoss
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from tests.adapters.tiny_text import tiny_model, tiny_tokenizer
from verl_leaf.adapters import for_openrlhf
from verl_leaf.algorithm import leaf_advantages
from verl_leaf.algorithm.settings import SETTINGS

SAMPLES = 4
PROMPTS = ("a", "b c", "d e a")
COMMON = (
    f"--algo.advantage.estimator group_norm --algo.kl.init_coef 0 --rollout.n_samples_per_prompt {SAMPLES} "
    "--rollout.batch_size 3 --vllm.num_engines 1 --reward.remote_url http://localhost:1 --actor.num_gpus_per_node 1 "
    "--data.max_len 32 --ds.attn_implementation eager"
).split()


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init("local", num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


class Reached(Exception):
    """OpenRLHF's command has read its arguments."""


@pytest.fixture
def undone(monkeypatch):
    """What the command changes is as before after a test."""
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(for_openrlhf.config, "hierarchize", for_openrlhf.config.hierarchize)
    monkeypatch.setattr(for_openrlhf.ppo_trainer, "PPOTrainer", for_openrlhf.ppo_trainer.PPOTrainer)


@pytest.fixture
def arguments(undone, monkeypatch):
    """The arguments as OpenRLHF's own command reads them, started as the README says."""

    def read(*words):
        def stop(args):
            raise Reached(args)

        monkeypatch.setattr(openrlhf.utils, "get_strategy", stop)
        with pytest.raises(Reached) as reached:
            for_openrlhf.main([*COMMON, *words])
        return reached.value.args[0]

    return read


class Group:
    """The actor's Ray processes, less Ray: one model, here."""

    def __init__(self, actor):
        self.actor = actor

    def async_run_method_batch(self, method_name, sequences, action_mask, attention_mask, mm_train_inputs_list):
        assert method_name == "forward" and not any(map(any, mm_train_inputs_list))
        results = [
            self.actor(one, action_mask=actions, attention_mask=mask)
            for one, actions, mask in zip(sequences, action_mask, attention_mask, strict=True)
        ]
        return [ray.put(results)]


def rollouts(model, tokenizer, with_log_probs):
    """Responses of several lengths to prompts of several lengths, as OpenRLHF has them of vLLM."""
    torch.manual_seed(1)
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for number in range(SAMPLES):
            with torch.no_grad():
                tokens = model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=3 + number, top_k=2
                )[0]
                log_probs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
            if with_log_probs:  # an engine's are not quite the actor's
                log_probs = log_probs * (1 + torch.rand(len(log_probs)))
            given = [0.0, *log_probs.tolist()]
            response = {
                "observation_tokens": tokens.tolist(),
                "action_ranges": [(ids.shape[1], len(tokens))],
                "rollout_log_probs": given if with_log_probs else None,
                "reward": float((tokens == 4).sum()) / 2 + number / 10,
                "prompt": prompt,
                "label": "",
            }
            experience = SamplesGenerator._process_response_into_experience(None, response, max_len=32)
            yield experience, {**response, "rollout_log_probs": given}


def expected(responses, **settings):
    """Computed plainly, one response a row."""
    width = max(len(each["observation_tokens"]) - each["action_ranges"][0][0] for each in responses)
    tokens, log_probs, mask = torch.zeros(12, width).long(), torch.zeros(12, width), torch.zeros(12, width)
    for row, each in enumerate(responses):
        start, end = each["action_ranges"][0]
        tokens[row, : end - start] = torch.tensor(each["observation_tokens"][start:end])
        log_probs[row, : end - start] = torch.tensor(each["rollout_log_probs"][start:end])
        mask[row, : end - start] = 1
    rewards = torch.tensor([each["reward"] for each in responses])
    result = leaf_advantages(tokens, -log_probs, rewards, mask, torch.arange(12) // SAMPLES, **settings)
    return result.advantages, mask.bool()


@pytest.fixture
def experiences(arguments, tmp_path):
    """Experiences of the real maker, and the responses they were made of."""

    def make(words, with_log_probs=True):
        args, tokenizer = arguments(*words), tiny_tokenizer()
        tiny_model().save_pretrained(tmp_path)
        actor = Actor(str(tmp_path), attn_implementation="eager").float()
        made = list(rollouts(actor.model, tokenizer, with_log_probs))
        strategy = types.SimpleNamespace(args=args)
        maker = for_openrlhf.LeafExperienceMaker(
            Group(actor), None, None, None, FixedKLController(0.0), strategy, tokenizer
        )
        found = maker.make_experience_batch([experience for experience, _ in made])
        return actor, found, [response for _, response in made]

    return make


def check_advantages(found, responses, **settings):
    plain, mask = expected(responses, **settings)
    assert any(row[own].unique().numel() > 1 for row, own in zip(plain, mask, strict=True))  # there is a tree
    assert sorted(row for experience in found for row in experience.index) == list(range(12))
    for experience in found:
        for number, row in enumerate(experience.index):
            actions = experience.action_mask[number].bool()
            torch.testing.assert_close(experience.advantages[number][actions], plain[row][mask[row]])
            assert not experience.advantages[number][~actions].any()
            assert torch.equal(experience.returns[number], experience.advantages[number])


@pytest.mark.parametrize("size", ["1", "2", "12"])
def test_every_token_gets_leafs_advantage(size, experiences):
    """A prompt's four responses in one batch with other prompts', or in several."""
    words = ("--rollout.micro_batch_size", size, "--leaf.fork_budget", "3", "--leaf.credit", "global")
    _, found, responses = experiences(words)
    assert len(found) == 12 // int(size)
    check_advantages(found, responses, fork_budget=3, credit="global")


def test_batches_by_length_get_the_same(experiences):
    """Dynamic batches put responses of all prompts in any order."""
    words = ("--train.dynamic_batch_enable", "--rollout.max_tokens_per_gpu", "24")
    _, found, responses = experiences(words)
    assert [row for experience in found for row in experience.index] != list(range(12))
    check_advantages(found, responses)


def test_the_actors_log_probabilities_where_vllm_gave_none(experiences):
    _, found, responses = experiences((), with_log_probs=False)
    assert all(experience.rollout_log_probs is None for experience in found)
    check_advantages(found, responses)


def test_the_loss_takes_them_and_the_metrics_are_there(experiences):
    actor, found, _ = experiences(("--rollout.micro_batch_size", "4"))
    for experience in found:
        assert len(experience.info["leaf/fired_share"]) == len(experience.info["group_reward_std"]) == 4
        assert {"leaf/node_size", "leaf/seconds", "forks/early", "forks/early_pairs"} <= experience.info.keys()
        log_probs = actor(
            experience.sequences, action_mask=experience.action_mask, attention_mask=experience.attention_mask
        )
        PolicyLoss()(log_probs, experience.action_log_probs, experience.advantages, action_mask=experience.action_mask)[
            0
        ].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in actor.parameters())


WRONG = {
    "algo.advantage.estimator": "--algo.advantage.estimator rloo",
    "algo.advantage.gamma": "--algo.advantage.gamma 0.9",
    "algo.kl.use_loss": "--algo.kl.init_coef 0.01",
    "reward.clip_range": "--reward.clip_range -1 1",
    "actor.policy_loss_type": "--actor.policy_loss_type gspo",
    "critic.freezing_steps": "--critic.freezing_steps 5",
    "train.async_enable": "--train.async_enable",
}


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS["openrlhf"]])
def test_what_it_does_not_go_with_is_refused(name, undone):
    with pytest.raises(ValueError, match=f"leaf cannot be combined with {name}="):
        for_openrlhf.main([*COMMON, *WRONG[name].split()])


def test_a_wrong_value_is_named(undone):
    with pytest.raises(ValueError, match="credit='all' is not valid. Valid values are both, global, local"):
        for_openrlhf.main([*COMMON, "--leaf.credit", "all"])


def test_a_reward_that_is_not_a_number_is_named(experiences, monkeypatch):
    whole = for_openrlhf.LeafExperienceMaker.make_experience

    def spoilt(maker, samples):
        made = whole(maker, samples)
        made[0].rewards[0] = torch.nan
        return made

    monkeypatch.setattr(for_openrlhf.LeafExperienceMaker, "make_experience", spoilt)
    with pytest.raises(ValueError, match="1 of 12 responses have the reward nan"):
        experiences(())


def test_kl_in_the_loss_is_taken(arguments):
    assert arguments("--algo.kl.init_coef", "0.01", "--algo.kl.use_loss").algo.kl.use_loss


def test_a_misspelt_setting_is_named(undone, capsys):
    with pytest.raises(SystemExit):
        for_openrlhf.main([*COMMON, "--leaf.fork_budge", "2"])
    assert (
        "--leaf.fork_budge: there is no such setting. The settings are --leaf.estimator, --leaf.fork_budget"
        in capsys.readouterr().err
    )


def test_openrlhfs_trainer_gets_the_experience_maker(arguments, tmp_path):
    """The real trainer, its tokenizer and data; only Ray's process around it is left out."""
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text('{"input": "a"}\n{"input": "b c"}\n')
    args = arguments("--data.prompt_dataset", str(tmp_path / "prompts.jsonl"))
    from openrlhf.utils.deepspeed import DeepspeedStrategy

    assert for_openrlhf.ppo_trainer.PPOTrainer is for_openrlhf.LeafPPOTrainer  # what OpenRLHF's command starts
    trainer = for_openrlhf.LeafPPOTrainer.__ray_actor_class__(
        str(tmp_path / "model"), DeepspeedStrategy(args=args), None, None, None, None, None
    )
    assert isinstance(trainer.experience_maker, for_openrlhf.LeafExperienceMaker)
    assert trainer.experience_maker.strategy.args.leaf == for_openrlhf.EstimatorSettings()
