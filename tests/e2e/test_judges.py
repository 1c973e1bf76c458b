"""Judges against vLLM's own OpenAI server, with a tiny Llama that knows the words 1 to 5."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from verl_leaf.common.answers import Answer
from verl_leaf.judges import JudgeSpec, JudgeStopped, judge
from verl_leaf.judges.prompts import ask

pytestmark = pytest.mark.e2e

GRADES = ["1", "2", "3", "4", "5"]
WORDS = ["<pad>", "<end>", "user", "assistant", *GRADES, "A", "B", "the", "is", "and", "answer", "of"]
WORDS += ["not", "or", "to", "it"]  # 20, so that all are among the 20 likeliest; vLLM 0.27.1 dies where there are fewer
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
ANSWERS = [
    Answer(row, 0, "s", "what is it", ("the answer",), (), text) for row, text in enumerate(["A and B", "is", "of"])
]


def build_model(folder: Path) -> None:
    tokens = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="<end>", pad_token="<pad>", chat_template=TEMPLATE, model_max_length=2048
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        dtype="float32",
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of the server, and the folder of its model."""
    folder = tmp_path_factory.mktemp("judge")
    build_model(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8"]
    environment = os.environ | {"VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(240):
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1", folder / "model"
        finally:
            process.terminate()
            process.wait(60)


def expected_grade(folder: Path, message: str) -> float:
    """Return transformers' grade: the mean of 1 to 5, weighted by their probabilities as the reply's first word."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
    )
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0, -1]
    weights = logits[[WORDS.index(grade) for grade in GRADES]].softmax(0)
    return float(weights @ torch.arange(1.0, 6.0))


def test_the_expected_grade_is_that_of_the_models_own_probabilities(server, tmp_path):
    url, folder = server
    allowed = [WORDS.index(grade) for grade in GRADES]  # vLLM's log-probabilities are those before this
    spec = JudgeSpec(
        name="tiny",
        url=url,
        model="tiny",
        kind="likert",
        format="bare",
        rubric="voice",
        max_tokens=1,
        extra_body={"allowed_token_ids": allowed},
    )
    verdicts = judge(ANSWERS, spec, tmp_path)
    messages = [ask("likert", "bare", "voice", each.question, each.references, [each.text]) for each in ANSWERS]
    assert [item.value for item in verdicts.items] == [
        pytest.approx(expected_grade(folder, message), abs=1e-3) for message in messages
    ]
    assert {item.by for item in verdicts.items} == {"logprobs"}
    assert verdicts.usage.calls == 3 and verdicts.usage.output_tokens == 3 and verdicts.usage.input_tokens > 300
    again = judge(ANSWERS, spec, tmp_path)
    assert again.usage.calls == 0 and again.items == verdicts.items


def test_babble_is_missing(server, tmp_path):
    spec = JudgeSpec(
        name="tiny", url=server[0], model="tiny", kind="da", rubric="qa", samples=3, temperature=1.0, max_tokens=8
    )
    verdicts = judge(ANSWERS, spec, tmp_path)
    assert (verdicts.score, verdicts.missing, verdicts.bounds) == (None, 3, (0, 100))
    assert verdicts.usage.calls == 9


def test_vllms_refusals_are_told(server, tmp_path):
    spec = JudgeSpec(name="tiny", url=server[0], model="other", kind="da", rubric="qa")
    with pytest.raises(JudgeStopped, match=r"refused with status 404: .*other.* does not exist"):
        judge(ANSWERS, spec, tmp_path)
    long = spec.model_copy(update={"model": "tiny", "max_tokens": 4096})
    with pytest.raises(JudgeStopped, match=r"refused with status 400: .*2048"):
        judge(ANSWERS, long, tmp_path)
