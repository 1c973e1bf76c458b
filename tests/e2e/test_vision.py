"""verl's own vision path with LEAF: a tiny random Qwen2.5-VL looks at pictures for two steps."""

import io
import os
import subprocess
import sys

import datasets
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.helpers import PROJECT
from verl_leaf.models.tiny import END, PAD, TEMPLATE, TEXT, byte_tokenizer
from verl_leaf.runs.summary import read_scalars

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]

# verl reads pictures with the latter (utils/dataset/rl_dataset.py), which needs the former.
for needed in ("torchvision", "qwen_vl_utils"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: bash tests/versions/lane.sh gpu runs this")

PICTURE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
SPECIAL = (*PICTURE, "<|video_pad|>")
SIZE = {"min_pixels": 28 * 28, "max_pixels": 56 * 56, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}


def share_of_letters(data_source, solution_str, ground_truth, extra_info=None) -> float:
    """The reward: random answers must differ in it."""
    return sum(letter.isascii() for letter in solution_str) / max(1, len(solution_str))


def write_model(folder) -> None:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.all_special_tokens, *SPECIAL]})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (*SPECIAL, END, PAD)}
    template = TEMPLATE.replace("'audio'", "'image'").replace("AUDIO", "".join(PICTURE))
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**SIZE), tokenizer, Qwen2VLVideoProcessor(**SIZE), chat_template=template
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": rope,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=ids[END], pad_token_id=ids[PAD])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_rows(path) -> None:
    rows = []
    for red in range(0, 256, 16):
        picture = io.BytesIO()
        # verl's maybe_fix_3d_position_ids (0.9.1, utils/tensordict_utils.py) breaks a batch whose rows all have one length.
        Image.new("RGB", (56, 28 + red % 32 // 16 * 28), (red, 0, 255 - red)).save(picture, "PNG")
        rows.append(
            {
                "data_source": "colours",
                "prompt": [{"role": "user", "content": "<image>Which colour?"}],
                "images": [{"bytes": picture.getvalue()}],
                "reward_model": {"style": "rule", "ground_truth": str(red)},
            }
        )
    datasets.Dataset.from_list(rows).to_parquet(path)


def test_two_steps(tmp_path):
    write_model(tmp_path / "model")
    write_rows(tmp_path / "rows.parquet")
    (tmp_path / "metrics").mkdir()
    settings = {
        "data.train_files": tmp_path / "rows.parquet",
        "data.val_files": tmp_path / "rows.parquet",
        "data.train_batch_size": 4,
        "data.max_prompt_length": 96,
        "data.max_response_length": 8,
        "data.dataloader_num_workers": 0,
        "data.shuffle": False,
        "actor_rollout_ref.model.path": tmp_path / "model",
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 512,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.rollout.temperature": 0.5,
        "actor_rollout_ref.rollout.calculate_log_probs": True,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.max_model_len": 128,
        "reward.custom_reward_function.path": __file__,
        "reward.custom_reward_function.name": share_of_letters.__name__,
        "trainer.total_training_steps": 2,
        "trainer.save_freq": -1,
        "trainer.test_freq": -1,
        "trainer.val_before_train": False,
        "trainer.logger": "[console,file]",
    }
    code = 'source recipes/common.sh; on_cpu_share_the_cores; exec "$@"'
    trainer = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "leaf", "machine=cpu"]
    with open(tmp_path / "log", "w") as log:
        subprocess.run(
            ["bash", "-c", code, "bash", *trainer, *(f"{name}={value}" for name, value in settings.items())],
            cwd=PROJECT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
                "VERL_FILE_LOGGER_PATH": str(tmp_path / "metrics/0.jsonl"),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=True,
        )
    metrics = read_scalars(tmp_path / "metrics")
    assert sorted(metrics["leaf/boundaries_per_prompt"]) == [1, 2]
    assert max(metrics["leaf/boundaries_per_prompt"].values()) > 0
    # 1.6e-4 with vLLM 0.24, 7.4e-3 with 0.31: verl, vLLM and transformers handle pictures without verl-leaf.
    assert max(metrics["training/rollout_probs_diff_max"].values()) < 1e-2
