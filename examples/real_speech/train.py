"""Make the bridge between Whisper's encoder and SmolLM2 anew. An interrupted command continues where it stopped.

python -m examples.real_speech.train --out FOLDER [--clips N] [--ctc-steps N] [--reading-steps N] [--steps N]
"""

import argparse
import time
from pathlib import Path

from examples.real_speech import corpus
from examples.real_speech.assemble import assemble, write_bridge
from examples.real_speech.ctc import Speller
from examples.real_speech.parts import SMOLLM2, WHISPER, Parts
from examples.real_speech.tuning import Tuner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for packages, clips, states and bridge.safetensors"
    )
    parser.add_argument("--clips", type=int, default=6500, help="spoken sentences to train on (default: %(default)s)")
    parser.add_argument("--ctc-steps", type=int, default=1100, help="batches of stage A (default: %(default)s)")
    parser.add_argument("--reading-steps", type=int, default=120, help="batches of stage B (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="batches of stage C (default: %(default)s)")
    options = parser.parse_args()
    folder, began = options.out, time.process_time()
    model, processor = assemble(Parts(folder / "parts"))
    data, validation = corpus.make(folder / "corpus", options.clips)
    counts = {name: len(part.texts) for name, part in validation.items()}
    print(f"{len(data.texts)} clips to train on; for validation: {counts}", flush=True)

    speller = Speller(model, processor, data, folder / "stage_a.pt")
    speller.train(options.ctc_steps, validation)
    tuner = Tuner(model, processor, speller.units, data)
    reading = tuner.read(folder / "stage_b.pt", options.reading_steps)
    # The state of stage C has all that is trained, so one that began after other stages does not continue them.
    hearing = tuner.train(
        folder / f"stage_c-{speller.progress.step}-{reading.progress.step}.pt", options.steps, validation
    )
    record = {
        "base": f"{SMOLLM2.name} {SMOLLM2.version} ({SMOLLM2.licence}), {WHISPER.name} {WHISPER.version} ({WHISPER.licence})",
        "data": "Debian's flight-of-the-amazon-queen (actors), and fortunes spoken by eSpeak NG and flite",
        "clips": len(data.texts),
        "ctc_steps": speller.progress.step,
        "reading_steps": reading.progress.step,
        "steps": hearing.progress.step,
        "cpu_seconds": round(sum(stage.progress.cpu_seconds for stage in (speller, reading, hearing))),
    }
    write_bridge(folder / "bridge.safetensors", tuner.bridge(), {name: str(value) for name, value in record.items()})
    print(f"{folder / 'bridge.safetensors'}: {record}; this command took {time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
