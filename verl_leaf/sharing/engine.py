"""veRL's FSDP engine, with what the rollouts of a prompt have in common computed once.

``+actor_rollout_ref.model.override_config.share_prompts=True`` switches it on, for ``old_log_prob``, ``ref`` and the update.
It extends ``FSDPEngineWithLMHead`` of verl/workers/engine/fsdp/transformer_impl.py (0.9.1): a micro-batch in which rows have
the same prompt and the same audio goes through the model as :func:`verl_leaf.sharing.pack.pack` lays it out; any other goes
as it would have gone.
"""

import inspect

import torch
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional as verl_F
from verl.utils.model import extract_multi_modal_inputs
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.sharing import FLAG
from verl_leaf.sharing.pack import Packed, pack


# veRL asks for an engine of the vendor first, and registers its own without one.
@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=["nvidia", "cpu"]
)
class SharingEngine(FSDPEngineWithLMHead):
    """As its base class; with the flag, the same numbers for less work."""

    def initialize(self):
        self.shares = bool(self.model_config.override_config.get(FLAG, False))
        super().initialize()
        if self.shares:
            check_attention(self._text_config)

    def prepare_model_inputs(self, micro_batch):
        packed = self._pack(micro_batch) if self.shares else None
        if packed is None:
            return super().prepare_model_inputs(micro_batch)
        device = micro_batch["input_ids"].device
        mask = packed.mask[:, None].to(device)
        if self._text_config._attn_implementation == "eager":  # which adds the mask to the scores
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        inputs = {
            "input_ids": packed.ids.to(device),
            "attention_mask": mask,
            "position_ids": packed.positions.to(device),
        }
        features = micro_batch.get("multi_modal_inputs", None)
        if features is not None:
            inputs |= extract_multi_modal_inputs(features, packed.first)
        column = 0
        if "logits_to_keep" in inspect.signature(_base_model(self.module).forward).parameters:
            column = packed.column
            inputs["logits_to_keep"] = packed.ids.shape[1] - column
        return inputs, {"packed": packed, "column": column}

    def prepare_model_outputs(self, output, output_args, micro_batch, logits_processor_func):
        packed = output_args.get("packed")
        if packed is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        wants_entropy = tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False)
        wants_squares = tu.get_non_tensor_data(data=micro_batch, key="calculate_sum_pi_squared", default=False)
        temperature = _one_temperature(micro_batch["temperature"])
        logits = output.logits if temperature == 1.0 else output.logits / temperature
        width, column = packed.ids.shape[1], output_args["column"]
        # Of all logits, those that a response token is predicted from, each once.
        places, where = torch.unique(packed.seen_from, return_inverse=True)
        row, place = places // width, places % width - column
        chosen = logits[row.to(logits.device), place.to(logits.device)]  # [places, vocabulary]
        where = where.to(logits.device)

        def laid_out(values: torch.Tensor) -> torch.Tensor:
            """What response tokens have, as nested sequences; 0 for the rest of them, which nobody reads."""
            offsets = micro_batch["input_ids"].offsets()
            flat = values.new_zeros(int(offsets[-1]))
            flat = flat.index_put((packed.answers.to(values.device),), values)
            return torch.nested.nested_tensor_from_jagged(flat, offsets)

        outputs = {}
        if wants_entropy:
            entropy = self.compute_entropy_from_logits
            if self.engine_config.entropy_checkpointing:
                outputs["entropy"] = laid_out(torch.utils.checkpoint.checkpoint(entropy, chosen)[where])
            else:
                outputs["entropy"] = laid_out(entropy(chosen)[where])
        if wants_squares:
            outputs["sum_pi_squared"] = laid_out(verl_F.calculate_sum_pi_squared_from_logits(chosen)[where])
        if len(places) == len(where):
            asked = torch.empty_like(where)
            asked[where] = packed.tokens.to(where.device)
            log_probs = verl_F.logprobs_from_logits(chosen, asked, inplace_backward=not wants_entropy)[where]
        else:
            log_probs = verl_F.logprobs_from_logits(chosen[where], packed.tokens.to(where.device))
        outputs["log_probs"] = laid_out(log_probs)
        return outputs

    def _pack(self, micro_batch) -> Packed | None:
        """The micro-batch with its common beginnings merged; None where that would save nothing."""
        input_ids, features = micro_batch["input_ids"], micro_batch.get("multi_modal_inputs", None)
        count = len(input_ids)
        stock = ("distillation_use_topk", "distillation_only", "enable_routing_replay")  # what only the base class does
        if "prompts" not in micro_batch or any(
            tu.get_non_tensor_data(data=micro_batch, key=name, default=False) for name in stock
        ):
            return None
        if micro_batch["position_ids"].dim() == 3 or _one_temperature(micro_batch["temperature"]) is None:
            return None
        roots = [b""] * count
        if features is not None:
            rows = [getattr(row, "data", row) or {} for row in features]
            if any(set(row) - {FEATURES_KEY} for row in rows) or len({FEATURES_KEY in row for row in rows}) > 1:
                return None
            roots = [bytes(row[FEATURES_KEY].flatten().tolist()) if row else b"" for row in rows]
        tokens, offsets = input_ids.values().cpu().numpy(), input_ids.offsets().tolist()
        sequences = [tokens[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]
        prompts = _prompt_lengths(micro_batch)
        if (
            len({(root, row[:length].tobytes()) for root, row, length in zip(roots, sequences, prompts, strict=True)})
            == count
        ):
            return None
        packed = pack(sequences, prompts, roots, tu.get_non_tensor_data(micro_batch, "pad_token_id", default=0))
        hidden = self._text_config.hidden_size
        alone = _cost(count, max(map(len, sequences)), hidden)
        return packed if _cost(*packed.ids.shape, hidden) < alone else None

    @property
    def _text_config(self):
        return _base_model(self.module).config.get_text_config()


def check_attention(text_config) -> None:
    """Stop unless all layers of a language model attend to everything before a token.

    Raises:
        ValueError: some do not, and a mask of ours would let them.
    """
    kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text_config, "sliding_window", None) is not None:
        raise ValueError(
            f"actor_rollout_ref.model.override_config.{FLAG}=True needs full attention in all layers; this "
            f"{text_config.model_type} has {', '.join(sorted(kinds))}, "
            f"sliding_window={getattr(text_config, 'sliding_window', None)}: do not share"
        )


def _cost(rows: int, width: int, hidden: int) -> int:
    """Multiplications of a layer, about: 12 hidden² a token outside attention, 2 hidden for each pair of tokens in it."""
    return rows * width * (12 * hidden**2 + 2 * hidden * width)


def _prompt_lengths(micro_batch) -> list[int]:
    """As verl/workers/utils/padding.py no_padding_2_padding counts them."""
    prompts = micro_batch["prompts"]
    if prompts.is_nested:
        return prompts.offsets().diff().tolist()
    return micro_batch["attention_mask"][:, : prompts.shape[1]].sum(dim=1).tolist()


def _one_temperature(temperature) -> float | None:
    """The temperature that all rows have, None where they differ."""
    if not isinstance(temperature, torch.Tensor):
        return float(temperature)
    values = temperature.unique()
    return float(values) if values.numel() == 1 else None


def _base_model(module: torch.nn.Module) -> torch.nn.Module:
    """The model inside FSDP's and PEFT's wrappers."""
    module = getattr(module, "_fsdp_wrapped_module", module)
    return module.get_base_model() if hasattr(module, "get_base_model") else module
