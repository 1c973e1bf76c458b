"""Write the answers of Whisper tiny.en with its own decoder, for ``verl-leaf evaluate``.

python -m examples.real_speech.whisper FILE.parquet --parts FOLDER --out ANSWERS.jsonl
"""

import argparse
import json
from pathlib import Path

import torch

from examples.real_speech.convert import Whisper
from examples.real_speech.parts import Parts
from examples.real_speech.sentences import words
from verl_leaf.common.progress import track
from verl_leaf.data.audio import load_audio
from verl_leaf.data.parquet import RowFile

MAX_TOKENS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="parquet file, one clip per row")
    parser.add_argument("--parts", type=Path, required=True, help="folder of the downloaded packages")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    whisper = Whisper(Parts(options.parts))
    model, extractor, tokenizer = whisper.model(), whisper.extractor(), whisper.tokenizer()
    start = torch.tensor([tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])])
    rows = list(RowFile(options.data).rows())
    with options.out.open("w", encoding="utf-8") as file, torch.inference_mode():
        for number, row in track(rows, "Whisper listens", total=len(rows)):
            clip = load_audio(row["audios"][0], extractor.sampling_rate, str(options.data.parent))
            features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
            whole = torch.ones(1, features.shape[-1], dtype=torch.long)
            tokens = model.generate(features, attention_mask=whole, decoder_input_ids=start, max_length=MAX_TOKENS)
            heard = tokenizer.decode(tokens[0], skip_special_tokens=True)
            file.write(json.dumps({"row": number, "text": " ".join(words(heard))}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
