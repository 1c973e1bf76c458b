"""The actor's engine in this process, on a tiny model, with micro-batches made by hand."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
import verl  # noqa: F401  (loads its plugins, ours among them)
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.utils.losses import ppo_loss

from verl_leaf.models import Family, features
from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.training.sharing.engine import SharingEngine

FP32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
LOSS = functools.partial(
    ppo_loss,
    ActorConfig(
        strategy="fsdp2",
        rollout_n=8,
        use_dynamic_bsz=True,
        use_kl_loss=True,
        kl_loss_coef=0.02,
        loss_agg_mode="seq-mean-token-mean",
    ),
)


def settings(
    folder: Path,
    family: Family,
    share: bool,
    precision: dict | None,
    checkpointing: bool = False,
    lora_rank: int = 16,
    shards: int = -1,
) -> tuple[HFModelConfig, FSDPEngineConfig, FSDPOptimizerConfig, CheckpointConfig]:
    """Return the settings of an engine with LoRA, or without it if the rank is 0.

    ``precision`` None is verl's own, bf16. If there are more ranks than ``shards``, the others have copies.
    """
    model = HFModelConfig(
        path=str(folder),
        lora_rank=lora_rank,
        target_modules=list(family.lora_targets),
        exclude_modules=family.lora_exclude,
        use_remove_padding=False,
        enable_gradient_checkpointing=checkpointing,
        override_config={"attn_implementation": family.attn_implementation, "share_prompts": share},
    )
    config = FSDPEngineConfig(strategy="fsdp2", use_torch_compile=False, mixed_precision=precision, fsdp_size=shards)
    return model, config, FSDPOptimizerConfig(lr=1e-4, total_training_steps=1000), CheckpointConfig()


def build_engine(folder: Path, family: Family, share: bool, precision: dict | None, **more) -> SharingEngine:
    """Return an engine with these `settings`."""
    torch.manual_seed(0)
    engine = SharingEngine(*settings(folder, family, share, precision, **more))
    engine.initialize()
    return engine


@dataclass
class Row:
    """A rollout.

    ``features`` are those of its prompt's audio, None without audio; ``later`` those of each clip in its response.
    """

    prompt: list[int]
    response: list[int]
    features: dict[str, torch.Tensor] | None = None
    later: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def audio(self) -> list[dict[str, torch.Tensor]]:
        return [*([] if self.features is None else [self.features]), *self.later]


@dataclass
class Features:
    """Stand-in for the queue: what :meth:`verl_leaf.models.features.FeatureCache.fetch` returns in this process."""

    stored: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def install(self) -> "Features":
        features.FeatureCache.fetch = self.fetch
        return self

    def fetch(self, keys: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self.stored[int(key[0]) - 1] for key in keys]

    def key(self, wanted: dict[str, torch.Tensor]) -> torch.Tensor:
        known = [number for number, each in enumerate(self.stored, 1) if each is wanted]
        if not known:
            self.stored.append(wanted)
            known = [len(self.stored)]
        return torch.full((1, 16), known[0], dtype=torch.uint8)


def build_batch(rows: list[Row], store: Features, micro_batch_size: int | None = None) -> TensorDict:
    """Return rows as verl's trainer passes them to the engine."""

    def nested(tensors):
        return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

    generator = torch.Generator().manual_seed(0)
    ids = [torch.tensor(row.prompt + row.response) for row in rows]
    lengths = [len(row.response) for row in rows]
    batch = TensorDict(
        {
            "input_ids": nested(ids),
            "position_ids": nested([torch.arange(len(each)) for each in ids]),
            "prompts": nested([torch.tensor(row.prompt) for row in rows]),
            "responses": nested([torch.tensor(row.response) for row in rows]),
            "response_mask": nested([torch.ones(length) for length in lengths]),
            "loss_mask": nested([torch.ones(length) for length in lengths]),
            "advantages": nested([torch.randn(length, generator=generator) for length in lengths]),
        },
        batch_size=[len(rows)],
    )
    # The columns of the dataset, which every row has.
    batch.set("raw_prompt", tu.NonTensorStack(*[tu.NonTensorData([{"role": "user"}]) for _ in rows]))
    inputs = [{FEATURES_KEY: torch.cat([*map(store.key, row.audio)])} if row.audio else {} for row in rows]
    batch.set("multi_modal_inputs", tu.NonTensorStack(*[tu.NonTensorData(each) for each in inputs]))
    tu.assign_non_tensor(
        batch,
        use_remove_padding=False,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=micro_batch_size or len(rows),
        temperature=1.0,
        global_batch_size=len(rows),
        compute_loss=True,
        pad_token_id=0,
    )
    return batch


def old_log_prob(engine: SharingEngine, batch: TensorDict) -> dict[str, torch.Tensor]:
    """Return log-probabilities and entropies, as the step of that name computes them."""
    tu.assign_non_tensor(batch, calculate_entropy=True)
    with engine.eval_mode():
        return engine.infer_batch(batch)["model_output"]


def ref(engine: SharingEngine, batch: TensorDict) -> torch.Tensor:
    """Return log-probabilities without the adapter."""
    tu.assign_non_tensor(batch, calculate_entropy=False)
    with engine.eval_mode(), engine.disable_adapter():
        return engine.infer_batch(batch)["model_output"]["log_probs"]


def add_log_probs(batch: TensorDict, old: torch.Tensor, reference: torch.Tensor) -> None:
    """Add the results of `old_log_prob` and `ref` for the responses."""
    offsets = batch["input_ids"].offsets()
    for name, values in (("old_log_probs", old), ("ref_log_prob", reference)):
        parts = [
            values.values()[end - length - 1 : end - 1]
            for end, length in zip(offsets[1:], batch["responses"].offsets().diff(), strict=True)
        ]
        batch[name] = torch.nested.as_nested_tensor(parts, layout=torch.jagged)


def update(engine: SharingEngine, batch: TensorDict, old: torch.Tensor, reference: torch.Tensor) -> dict:
    """Run the update with the KL loss."""
    tu.assign_non_tensor(batch, calculate_entropy=False)
    add_log_probs(batch, old, reference)
    with engine.train_mode():
        return engine.train_batch(batch, LOSS)


def step(engine: SharingEngine, batch: TensorDict) -> dict:
    batch = batch.clone()
    return update(engine, batch, old_log_prob(engine, batch)["log_probs"], ref(engine, batch))
