"""An external plugin for ms-swift, after the adapter: a reward, and a trainer that writes down what each step computed."""

import json
import os

import torch
from swift.rewards import ORM, orms
from swift.trainers import TrainerFactory

from verl_leaf.adapters import for_ms_swift


class Letters(ORM):
    """The share of the reference's letters that are in the completion, and of the completion's in the reference."""

    def __call__(self, completions, solution, **_):
        return [
            len(set(completion) & set(reference)) / max(len(set(completion) | set(reference)), 1)
            for completion, reference in zip(completions, solution, strict=True)
        ]


class Recording(for_ms_swift.LeafGRPOTrainer):
    """Keeps what each step was computed from, and the model's own log-probabilities, found without ms-swift."""

    def _postprocess_batch(self, samples, batch_encoded_inputs):
        super()._postprocess_batch(samples, batch_encoded_inputs)
        path = f"{os.environ['RECORD']}_{self.accelerator.process_index}.jsonl"
        with open(path, "a", encoding="utf-8") as file:
            for encoded in batch_encoded_inputs:
                file.write(json.dumps(self._record(encoded["model_inputs"], encoded["grpo_batch"])) + "\n")

    def _record(self, inputs, batch):
        with torch.no_grad():
            forward = {name: value for name, value in inputs.items() if name != "labels"}
            logits = self.accelerator.unwrap_model(self.model)(**forward).logits
        width = batch.completion_mask.shape[1]
        log_probs = logits[:, -width - 1 : -1].float().log_softmax(-1)
        log_probs = log_probs.gather(2, inputs["input_ids"][:, -width:, None])[..., 0]
        return {
            "tokens": inputs["input_ids"][:, -width:].tolist(),
            "mask": batch.completion_mask.int().tolist(),
            "log_probs": log_probs.tolist(),
            "advantages": batch.advantages.tolist(),
            "rewards": self._rewards_per_func.tolist(),  # of all processes
            "audio": "input_features" in inputs,
        }


orms["letters"] = Letters
TrainerFactory.TRAINER_MAPPING["grpo"] = f"{__name__}.Recording"
