"""Make the bridge between Whisper's encoder and SmolLM2 anew. An interrupted command continues where it was.

python -m examples.real_speech.train --out FOLDER [--clips N] [--ctc-steps N] [--steps N]
"""

import argparse
import time
from pathlib import Path

import jiwer
import torch

from examples.real_speech import corpus, ctc
from examples.real_speech.assemble import assemble, cross, write_bridge
from examples.real_speech.parts import Parts
from examples.real_speech.tuning import Tuner
from verl_leaf.common.files import whole_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for packages, clips, states and bridge.safetensors"
    )
    parser.add_argument("--clips", type=int, default=1600, help="spoken sentences to train on (default: %(default)s)")
    parser.add_argument("--ctc-steps", type=int, default=1000, help="batches of stage A (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="batches of stage B (default: %(default)s)")
    options = parser.parse_args()
    folder, began = options.out, time.process_time()
    model, processor = assemble(Parts(folder / "parts"))
    data, validation = corpus.make(folder / "corpus", corpus.Encoder(model, processor), options.clips)
    print(f"{len(data.texts)} clips to train on, {len(validation.texts)} for validation", flush=True)

    path = folder / "stage_a.pt"
    if not path.exists():
        embeddings = model.get_input_embeddings().weight.detach()
        projector, wer = ctc.train(data, validation, embeddings, processor.tokenizer, options.ctc_steps, word_errors)
        with whole_file(path) as partial:
            torch.save({"projector": projector, "steps": options.ctc_steps, "wer": wer}, partial)
    stage_a = torch.load(path)
    cross(model, stage_a["projector"])

    tuner = Tuner(model, processor, data)
    progress = tuner.train(folder / "stage_b.pt", options.steps)
    record = {
        "clips": len(data.texts),
        "ctc_steps": stage_a["steps"],
        "steps": progress.step,
        "cpu_seconds_of_stage_b": round(progress.cpu_seconds),
    }
    write_bridge(folder / "bridge.safetensors", tuner.bridge(), {name: str(value) for name, value in record.items()})
    print(f"{folder / 'bridge.safetensors'}: {record}; this command took {time.process_time() - began:.0f} CPU s")


def word_errors(references: list[str], heard: list[str]) -> float:
    """Return the word error rate over all clips, without case and punctuation."""
    return jiwer.wer([" ".join(ctc.words(text)) for text in references], [" ".join(ctc.words(text)) for text in heard])


if __name__ == "__main__":
    main()
