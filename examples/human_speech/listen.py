"""Write what pocketsphinx, a speech recogniser without a language model, hears: answers for ``verl-leaf evaluate``.

python -m examples.human_speech.listen FILE.parquet --out ANSWERS.jsonl
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pocketsphinx import Decoder

from verl_leaf.data.audio import load_audio
from verl_leaf.data.parquet import RowFile

RATE = 16_000  # Hz, of its English model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="parquet file, one clip per row")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    with options.out.open("w", encoding="utf-8") as file:
        for number, row in RowFile(options.data).rows():
            clip = load_audio(row["audios"][0], RATE, str(options.data.parent))
            decoder.start_utt()
            decoder.process_raw((clip * 32767).astype(np.int16).tobytes(), full_utt=True)
            decoder.end_utt()
            heard = decoder.hyp()
            file.write(json.dumps({"row": number, "text": heard.hypstr if heard else ""}) + "\n")


if __name__ == "__main__":
    main()
