"""Train a tiny text model with the adapter for TRL, in one process or several, and write down what each step computed.

python -m tests.adapters.trl_run --output_dir OUT [TRL's arguments, and the adapter's]
torchrun --nproc-per-node 2 -m tests.adapters.trl_run --output_dir OUT ...
"""

import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import HfArgumentParser

from tests.adapters.tiny_text import tiny_model, tiny_tokenizer
from verl_leaf.adapters.for_trl import LeafGRPOConfig, LeafGRPOTrainer


def share_of_b(completions, **_) -> list[float]:
    return [text.split().count("b") / max(len(text.split()), 1) for text in completions]


def has_c(completions, **_) -> list[float | None]:
    """None where there is nothing to say."""
    return [None if "d" in text else float("c" in text) for text in completions]


class Recording(LeafGRPOTrainer):
    """Keeps what each step was computed from, and the model's own log-probabilities, found without TRL."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        with torch.no_grad():
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
            mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
            logits = self.accelerator.unwrap_model(self.model)(input_ids=ids, attention_mask=mask).logits
            log_probs = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        width = output["completion_ids"].shape[1]
        step = {name: output[name].tolist() for name in ("completion_ids", "completion_mask", "advantages")}
        step["log_probs"] = log_probs[:, -width:].tolist()
        step["rewards"] = self._last_rewards.tolist()  # of all processes
        with open(f"{self.args.output_dir}/steps_{self.accelerator.process_index}.jsonl", "a") as file:
            file.write(json.dumps(step) + "\n")
        return output


def main() -> None:
    (config,) = HfArgumentParser(LeafGRPOConfig).parse_args_into_dataclasses()
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    prompts = [{"prompt": prompt} for prompt in ("a", "b c", "d e a", "e", "c a", "b")]
    trainer = Recording(
        model=tiny_model(),
        reward_funcs=[share_of_b, has_c],
        args=config,
        train_dataset=Dataset.from_list(prompts),
        processing_class=tiny_tokenizer(),
    )
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    if trainer.accelerator.is_main_process:
        moved = any((before[name] != parameter).any().item() for name, parameter in trainer.model.named_parameters())
        record = {"log": trainer.state.log_history, "moved": moved}
        (Path(config.output_dir) / "run.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
