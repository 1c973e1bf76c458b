"""Make the data and the warm-started tiny Llama of this example, unless they are there.

python -m examples.next_letter.prepare --out DIR
"""

import argparse
import random
import string
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from verl_leaf.common.progress import track

LETTERS = string.ascii_lowercase
END, PAD, START = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
TEMPLATE = (
    "{% for message in messages %}" + START + " {{ message['role'] }} {{ message['content'] }} " + END + " {% endfor %}"
    "{% if add_generation_prompt %}" + START + " assistant {% endif %}"
)


def draw(rng: random.Random) -> list[str]:
    """Return four to eight letters that have both neighbours."""
    return rng.choices(LETTERS[1:-1], k=rng.randint(4, 8))


def shift(letter: str, by: int) -> str:
    return LETTERS[LETTERS.index(letter) + by]


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = [PAD, START, END, "user", "assistant", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        padding_side="left",
        model_max_length=256,
        chat_template=TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=False,
        dtype="float32",
        bos_token_id=None,
        **ends,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.update(**ends)
    return model


def undecided(rng: random.Random, letters: list[str]) -> list[dict]:
    """Return an answer in which every letter is replaced with the next or the previous one at random."""
    return [{"role": "assistant", "content": " ".join(shift(letter, rng.choice((-1, 1))) for letter in letters)}]


def warm_start(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    answer: Callable[[random.Random, list[str]], list[dict]] = undecided,
) -> None:
    """Teach the form of an answer."""
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in track(range(steps), "Warm start", total=steps):
        letters = [draw(rng) for _ in range(64)]
        chats = [[{"role": "user", "content": " ".join(line)}, *answer(rng, line)] for line in letters]
        prompts = tokenizer.apply_chat_template(
            [chat[:1] for chat in chats], add_generation_prompt=True, tokenize=False
        )
        batch = tokenizer(
            tokenizer.apply_chat_template(chats, tokenize=False),
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, prompt in zip(labels, prompts, strict=True):
            row[: len(tokenizer(prompt)["input_ids"])] = -100
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def rows(count: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    lines = [draw(rng) for _ in range(count)]
    return [
        {
            "data_source": "next_letter",
            "prompt": [{"role": "user", "content": " ".join(line)}],
            "reward_model": {"style": "rule", "ground_truth": " ".join(shift(letter, 1) for letter in line)},
            "extra_info": {"index": index},
        }
        for index, line in enumerate(lines)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for data and model/")
    parser.add_argument("--steps", type=int, default=400, help="warm-start steps (default: %(default)s)")
    args = parser.parse_args()
    model_folder = args.out / "model"
    if (model_folder / "config.json").exists():
        print(f"{args.out} is already complete")
        return
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    for split, count, seed in (("train", 512, 1), ("val", 64, 2)):
        datasets.Dataset.from_list(rows(count, seed)).to_parquet(args.out / f"{split}.parquet")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    warm_start(model, tokenizer, args.steps)
    tokenizer.save_pretrained(model_folder)
    model.save_pretrained(model_folder)


if __name__ == "__main__":
    main()
