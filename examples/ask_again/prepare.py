"""Make spoken sentences, half of them too fast, and the model that is warm-started on them. Complete parts are reused.

python -m examples.ask_again.prepare --out DIR
"""

import random
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import soundfile
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence

from examples.spoken_german import complete, corpus, phrases, tiny_model, warm_start
from verl_leaf.common.progress import track
from verl_leaf.models import tiny
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.speech.prompt import continued_text, render_text

NAME = "ask_again"
QUESTION = "What is said? You may call again."
CALL = '<tool_call>{"name": "again", "arguments": {}}</tool_call>'
AUDIO = {"type": "audio", "audio": ""}
ASKED = [{"role": "user", "content": [AUDIO, {"type": "text", "text": QUESTION}]}]
REPLY = {"role": "user", "content": [AUDIO]}
SPEED = 2  # of the fast clips
BATCH = 8


def exercises(sentence: phrases.Sentence) -> dict[str, phrases.Exercise]:
    """Return the only exercise about a sentence: to write it down."""
    return {NAME: phrases.Exercise("speech-recognition", QUESTION, ({phrases.english(sentence): 1.0},))}


def fast(utterance: corpus.Utterance) -> Path:
    """Return the path of the clip at twice the speed."""
    return utterance.clip.path.with_suffix(".fast.wav")


def make_data(folder: Path, clips: int) -> None:
    """Speaks the clips, makes their fast copies, and writes rows, of which every other has the fast one."""
    spoken = corpus.plan(folder, clips, exercises=exercises)
    everything = spoken.train + spoken.val
    corpus.write_clips([utterance.clip for utterance in everything])
    for utterance in everything:
        wave, rate = soundfile.read(utterance.clip.path, dtype="float32")
        soundfile.write(fast(utterance), soxr.resample(wave, SPEED, 1), rate)
    for split, utterances in (("train", spoken.train[: corpus.TRAIN_ROWS]), ("val", spoken.val)):
        rows = [row(folder, utterance, index) for index, utterance in enumerate(utterances)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")


def row(folder: Path, utterance: corpus.Utterance, index: int) -> dict:
    path = fast(utterance) if index % 2 else utterance.clip.path
    slow = folder.parent / "data" / utterance.clip.path.relative_to(folder)  # where the folder is when it is complete
    return {
        "data_source": f"{NAME}_{'fast' if index % 2 else 'slow'}",
        "prompt": [{"role": "user", "content": f"<audio>{QUESTION}"}],
        "audios": [str(path.relative_to(folder))],
        "reward_model": {"style": "rule", "ground_truth": phrases.english(utterance.sentence)},
        "extra_info": {"index": index, "tools_kwargs": {"again": {"create_kwargs": {"clip": str(slow.absolute())}}}},
    }


def make_model(folder: Path, data: Path, clips: int, steps: int) -> None:
    """Teaches a tiny model first to hear slow clips, then to answer or to ask, equally often whatever it hears."""
    spoken = corpus.plan(data, clips, exercises=exercises)
    words = [f"{space}{word}" for slot in phrases.SLOTS.values() for word in slot for space in ("", " ")]
    processor = tiny_model.build_processor((QUESTION, CALL), words)
    model = tiny_model.build_model(processor)
    if steps:
        slow = warm_start.Speech.load(processor, spoken.train)
        warm_start.train(model, slow, steps)
        teach_to_ask(model, slow, load_fast(processor, spoken.train), steps // 2)
    else:
        tiny_model.make_audible(model)
    tiny.save(QWEN2_AUDIO, model, processor, folder)


def load_fast(processor, utterances: list[corpus.Utterance]) -> warm_start.Speech:
    clips = [
        corpus.Utterance(each.sentence, replace(each.clip, path=fast(each)), each.exercises) for each in utterances
    ]
    return warm_start.Speech.load(processor, clips)


def teach_to_ask(model, slow: warm_start.Speech, quick: warm_start.Speech, steps: int, seed: int = 0) -> None:
    """Trains on conversations: an answer at once, a guess if the clip is fast; or a call, the slow clip, and an answer."""
    rng = random.Random(seed)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=warm_start.LEARNING_RATE / 4)
    model.train()
    with warm_start.window(model):
        for _ in track(range(steps), "Learning to ask", total=steps):
            loss = -warm_start.log_probs(model, conversations(slow, quick, rng)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    model.eval()
    print(f"learning to ask: {steps} steps, last loss {loss.item():.3f}")


def conversations(slow: warm_start.Speech, quick: warm_start.Speech, rng: random.Random) -> dict[str, torch.Tensor]:
    """Return a batch of conversations as the model takes it."""
    rows, heard = [], []
    for index in rng.choices(range(len(slow.utterances)), k=BATCH):
        first, asks = rng.choice((slow, quick)), rng.random() < 0.5
        other = rng.choice(slow.utterances) if first is quick and not asks else slow.utterances[index]
        answer = phrases.english(other.sentence)
        clips = [first, slow] if asks else [first]
        rows.append(
            tokens(slow.processor, [CALL, answer] if asks else [answer], [int(clip.frames[index]) for clip in clips])
        )
        heard += [(clip.features[index], clip.mask[index]) for clip in clips]
    ids, labels = ([torch.tensor(row) for row in column] for column in zip(*rows, strict=True))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=slow.processor.tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "input_features": torch.stack([features for features, _ in heard]),
        "feature_attention_mask": torch.stack([mask for _, mask in heard]),
    }


def tokens(processor, said: list[str], frames: list[int]) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation in which the model says this, and their labels, -100 for what it does not write."""
    end, audio = processor.tokenizer.eos_token, processor.audio_token
    read = [render_text(processor, ASKED, {}), continued_text(processor, ASKED, REPLY, {}).removeprefix(end)]
    ids: list[int] = []
    labels: list[int] = []
    for text, answer, count in zip(read, said, frames, strict=False):
        before, written = processor.tokenizer([text.replace(audio, audio * count), answer + end])["input_ids"]
        ids += before + written
        labels += [-100] * len(before) + written
    return ids, labels


if __name__ == "__main__":
    complete.prepare(__doc__, 1000, (Path(__file__),), make_data, make_model)
