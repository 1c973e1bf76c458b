"""verl's FSDP engine, which computes only once what the rollouts of a prompt share.

``actor_rollout_ref.model.override_config.share_prompts=True`` turns it on for ``old_log_prob``, ``ref`` and the update.
It extends ``FSDPEngineWithLMHead`` of verl/workers/engine/fsdp/transformer_impl.py (0.9.1): the model gets a
micro-batch in the layout of :func:`verl_leaf.training.sharing.pack.pack`, in which rows with the same prompt and audio
are one row if that is less work. A row's audio is what its ``features_key`` stands for: the features of the prompt, and
of each later clip.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict
from torch.utils.checkpoint import checkpoint
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional as verl_F
from verl.utils.device import get_device_name
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.models.placeholder import placeholders
from verl_leaf.models.shapes import padded_length
from verl_leaf.training.sharing import SHARE_PROMPTS
from verl_leaf.training.sharing.audio import Marks
from verl_leaf.training.sharing.log_probs import log_probs, of_distributions
from verl_leaf.training.sharing.pack import Layout, Packed, cheaper, pack

# Features that only the base class supports.
BASE_CLASS_ALONE = ("distillation_use_topk", "distillation_only", "enable_routing_replay")


# verl looks for an engine of the vendor first, and registers its own without a vendor.
@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=["nvidia", "cpu"]
)
class SharingEngine(FSDPEngineWithLMHead):
    """The base class, which with ``share_prompts`` computes the same numbers with less work."""

    def initialize(self):
        self.shares = bool(self.model_config.override_config.get(SHARE_PROMPTS, False))
        # cuDNN's attention builds a plan for every new shape, and the widths of micro-batches vary. vLLM disables it, too
        # (vllm/platforms/cuda.py).
        torch.backends.cuda.enable_cudnn_sdp(False)
        _say_whether_embeddings_are_tied(self.model_config.hf_config)
        super().initialize()
        if self.shares:
            check_attention(self._text_config)

    def _build_module(self):
        """Load the model on one rank of a shard group only, as verl does unless embeddings are tied.

        If they are, every rank in verl (0.9.1) keeps the whole model in fp32 until it is sharded: 258 GiB on a host
        with 8 GPUs for 8 billion weights. The files decide: transformers does not tie embeddings to an output layer
        with other weights, whatever the configuration says. Only a rank with the weights can compare them. So the other
        ranks load an untied model, and follow the first.
        """
        config = self.model_config.hf_config
        if not (config.tie_word_embeddings and self.engine_config.strategy == "fsdp2"):
            return super()._build_module()
        with _untied(config) if self.device_mesh.get_coordinate()[-1] else nullcontext():
            module = super()._build_module()
        embeddings, output = module.get_input_embeddings(), module.get_output_embeddings()
        tied = [embeddings.weight is output.weight]
        torch.distributed.broadcast_object_list(tied, src=0)
        config.tie_word_embeddings = module.config.tie_word_embeddings = tied[0]
        if tied[0]:
            output.weight = embeddings.weight
        return module

    def forward_backward_batch(self, data, loss_function, forward_only=False):
        if self.shares:
            packs = _can_be_packed(data)
            if packs:
                data = _tensors_alone(data)
            if tu.get_non_tensor_data(data, "use_dynamic_bsz", default=True):
                tu.assign_non_tensor(data, force_group_size=self._rows_together(data, packs))
        return super().forward_backward_batch(data, loss_function, forward_only)

    def _rows_together(self, data, packs: bool) -> int:
        """Return how many successive rows must be in the same micro-batch.

        verl (utils/seqlen_balancing.py rearrange_micro_batches, 0.9.1) deals single rows by their length, so the more
        micro-batches there are, the fewer rows of a prompt meet in one. All ranks need the same number, and all must ask,
        also one whose rows (with an image, for example) are not packed.
        """
        size = 1
        if packs:
            limit = data["max_token_len_per_gpu"] * self.ulysses_sequence_parallel_size
            size = rows_together(data["input_ids"].offsets().diff().tolist(), _prompt_keys(data), limit)
        sizes = torch.tensor([size, -size], device=get_device_name())
        torch.distributed.all_reduce(sizes, op=torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        largest, smallest = sizes.tolist()
        return size if largest == -smallest else 1

    def prepare_model_inputs(self, micro_batch):
        if FEATURES_KEY not in micro_batch:
            return super().prepare_model_inputs(micro_batch)
        packed, keys = self._pack(micro_batch)
        device = micro_batch["input_ids"].device
        inputs: dict[str, Any] = {
            "input_ids": packed.input_ids.to(device),
            "attention_mask": self._attention_mask(packed, device),
            "position_ids": packed.position_ids.to(device),
        }
        if len(keys):
            inputs[FEATURES_KEY] = keys.to(device)
        first_logit = 0
        if "logits_to_keep" in inspect.signature(_base_model(self.module).forward).parameters:
            first_logit = packed.first_logit
            inputs["logits_to_keep"] = packed.input_ids.shape[1] - first_logit
        temperature = _one_temperature(micro_batch["temperature"])
        return inputs, {"packed": packed, "first_logit": first_logit, "temperature": temperature}

    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        packed = output_args.get("packed")
        if packed is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        temperature, device = output_args["temperature"], output.logits.device
        logits = output.logits.flatten(0, 1)
        row, column = packed.logit_index // packed.input_ids.shape[1], packed.logit_index % packed.input_ids.shape[1]
        places = (row * output.logits.shape[1] + column - output_args["first_logit"]).to(device)
        offsets = micro_batch["input_ids"].offsets()

        def as_sequences(values: torch.Tensor) -> torch.Tensor:
            """Return values of response tokens as nested sequences, with 0 for the other tokens, which are not used."""
            flat = values.new_zeros(int(offsets[-1]))
            flat = flat.index_put((packed.target_index.to(device),), values)
            return torch.nested.nested_tensor_from_jagged(flat, offsets)

        outputs = {"log_probs": as_sequences(log_probs(logits, places, packed.target_ids.to(device), temperature))}
        for name, wanted, function in (
            ("entropy", "calculate_entropy", self._entropy),
            ("sum_pi_squared", "calculate_sum_pi_squared", verl_F.calculate_sum_pi_squared_from_logits),
        ):
            if tu.get_non_tensor_data(data=micro_batch, key=wanted, default=False):
                outputs[name] = as_sequences(of_distributions(function, logits, places, temperature))
        return outputs

    @property
    def _entropy(self) -> Callable[[torch.Tensor], torch.Tensor]:
        entropy = self.compute_entropy_from_logits
        if not self.engine_config.entropy_checkpointing:
            return entropy
        return lambda logits: checkpoint(entropy, logits, use_reentrant=False)

    def _attention_mask(self, packed: Packed, device) -> torch.Tensor | None:
        mask = packed.attention_mask(device)
        if mask is None:
            return None
        mask = mask[:, None]
        if self._text_config._attn_implementation == "eager":  # eager attention adds the mask to the scores
            return torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        return mask

    def _pack(self, micro_batch) -> tuple[Packed, torch.Tensor]:
        """Return the micro-batch, its common beginnings merged if that saves work, and the keys of its audio in order."""
        input_ids = micro_batch["input_ids"]
        count = len(input_ids)
        tokens, offsets = input_ids.values().cpu().numpy(), input_ids.offsets().tolist()
        sequences = [tokens[start:end] for start, end in itertools.pairwise(offsets)]
        prompts, pad = _prompt_lengths(micro_batch), tu.get_non_tensor_data(micro_batch, "pad_token_id", default=0)
        marks = Marks(next(iter(placeholders(_base_model(self.module).config)), -1))
        audio = [[bytes(key) for key in keys if any(key)] for keys in micro_batch[FEATURES_KEY].tolist()]
        sequences = [marks.mark(*row) for row in zip(sequences, prompts, audio, strict=True)]
        packed = pack(sequences, prompts, [None] * count, pad)
        shared, alone = Layout(*packed.input_ids.shape), Layout(count, padded_length(max(map(len, sequences))))
        if packed.last is not None and not cheaper(shared, alone, self._text_config.hidden_size):
            packed = pack(sequences, prompts, range(count), pad)
        ids, targets = marks.tokens(packed.input_ids), marks.tokens(packed.target_ids)
        return dataclasses.replace(packed, input_ids=ids, target_ids=targets), marks.keys(packed.input_ids)

    @property
    def _text_config(self):
        return _base_model(self.module).config.get_text_config()


def _can_be_packed(data: TensorDict) -> bool:
    """Return whether this engine can compute a batch; otherwise the base class does."""
    return (
        "prompts" in data
        and not any(tu.get_non_tensor_data(data=data, key=name, default=False) for name in BASE_CLASS_ALONE)
        and data["position_ids"].dim() == 2
        and _one_temperature(data["temperature"]) is not None
        and all(set(row) <= {FEATURES_KEY} for row in _multi_modal_inputs(data))
    )


def _tensors_alone(data: TensorDict) -> TensorDict:
    """Return the batch with the keys of its audio as one tensor, and without columns of one object per row.

    verl splits a batch and moves it to the device object by object, including columns of the dataset and metrics of the
    rollout, which neither the model nor a loss reads.
    """
    rows = [row.get(FEATURES_KEY, ()) for row in _multi_modal_inputs(data)]
    keys = torch.zeros(len(data), max(map(len, rows), default=0), 16, dtype=torch.uint8)  # 0 if a row has fewer
    for key, of_row in zip(keys, rows, strict=True):
        if len(of_row):
            key[: len(of_row)] = of_row
    data = data.exclude(*(name for name, column in data.items() if isinstance(column, NonTensorStack)))
    data[FEATURES_KEY] = keys.to(data["input_ids"].device)
    return data


def rows_together(lengths: Sequence[int], prompts: Sequence[Hashable], limit: int) -> int:
    """Return the largest number of successive rows that divides every run of rows with the same prompt.

    Args:
        lengths: tokens of each row.
        prompts: keys of the rows' prompts.
        limit: most tokens in a micro-batch; rows together have no more, unless a single one has.
    """
    size = math.gcd(*(len(list(run)) for _, run in itertools.groupby(prompts)))
    tokens = [0, *itertools.accumulate(lengths)]
    for rows in range(size, 1, -1):
        if size % rows == 0 and max(end - start for start, end in itertools.pairwise(tokens[::rows])) <= limit:
            return rows
    return 1


def _prompt_keys(data: TensorDict) -> list[tuple]:
    """Return a key of each row's prompt: its tokens, and its audio (a row's later clips have keys of their own)."""
    input_ids, keys = data["input_ids"], data[FEATURES_KEY][:, :1].flatten(1).tolist()
    tokens, offsets = input_ids.values().tolist(), input_ids.offsets().tolist()
    lengths = _prompt_lengths(data)
    return [
        (tuple(tokens[start : start + length]), tuple(key))
        for start, length, key in zip(offsets[:-1], lengths, keys, strict=True)
    ]


def _multi_modal_inputs(data: TensorDict) -> list[dict]:
    rows = data.get("multi_modal_inputs", None)
    return [{}] * len(data) if rows is None else [getattr(row, "data", row) or {} for row in rows]


def _say_whether_embeddings_are_tied(config) -> None:
    """Set tie_word_embeddings in the outer config if the text config sets it.

    verl (FSDPEngine._build_module and utils/fsdp_utils.py _select_fsdp2_wrap_targets, 0.9.1) and transformers'
    tie_weights read only ``tie_word_embeddings`` of the outer config. Those of Qwen2-Audio and Audio Flamingo 3 lack
    it, and verl fails. In others it may be false although the language model ties its embeddings.
    """
    config.tie_word_embeddings = any(getattr(part, "tie_word_embeddings", False) for part in _parts(config))


@contextmanager
def _untied(config) -> Iterator[None]:
    """Let the configuration say during the block that embeddings are not tied; then verl puts no weights on this rank."""
    parts = [part for part in _parts(config) if getattr(part, "tie_word_embeddings", False)]
    for part in parts:
        part.tie_word_embeddings = False
    try:
        yield
    finally:
        for part in parts:
            part.tie_word_embeddings = True


def _parts(config) -> tuple[Any, Any]:
    return config, config.get_text_config()


def check_attention(text_config) -> None:
    """Raise ValueError unless all layers of a language model attend to everything before a token."""
    kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text_config, "sliding_window", None) is not None:
        raise ValueError(
            f"actor_rollout_ref.model.override_config.{SHARE_PROMPTS}=True needs full attention in all layers, but this "
            f"{text_config.model_type} has {', '.join(sorted(kinds))} and "
            f"sliding_window={getattr(text_config, 'sliding_window', None)}. Set {SHARE_PROMPTS}=False"
        )


def _prompt_lengths(micro_batch) -> list[int]:
    """Return the lengths of the prompts, counted as in verl/workers/utils/padding.py no_padding_2_padding."""
    prompts = micro_batch["prompts"]
    if prompts.is_nested:
        return prompts.offsets().diff().tolist()
    return micro_batch["attention_mask"][:, : prompts.shape[1]].sum(dim=1).tolist()


def _one_temperature(temperature) -> float | None:
    if not isinstance(temperature, torch.Tensor):
        return float(temperature)
    values = temperature.unique()
    return float(values) if values.numel() == 1 else None


def _base_model(module: Any) -> Any:
    """Return the model inside FSDP's and PEFT's wrappers."""
    module = getattr(module, "_fsdp_wrapped_module", module)
    return module.get_base_model() if hasattr(module, "get_base_model") else module
