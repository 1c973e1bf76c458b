"""Makes the spoken corpus and the warm-started tiny Qwen2-Audio. What is there and complete is reused.

    python examples/spoken_german/prepare.py --out DIR
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

HERE = Path(__file__).parent
RECORD = "made_from.json"


def main() -> None:
    """Makes `DIR/data` and `DIR/model`, each complete or not there at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for data/ and model/")
    parser.add_argument("--clips", type=int, default=3600, help="training clips (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=1000, help="warm-start steps; 0 leaves the model random (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.clips < 8:
        parser.error("--clips: at least 8")
    data, model = args.out / "data", args.out / "model"
    data_from = fingerprint("phrases.py", "synthesis.py", "corpus.py", clips=args.clips)
    model_from = fingerprint("tiny_model.py", "warm_start.py", data=data_from, steps=args.steps)
    if made_from(data) == data_from and made_from(model) == model_from:
        print(f"all there already: {data}, {model}")
        return

    began = time.monotonic()
    if made_from(data) != data_from:
        make_data(data, data_from, args.clips)
    if made_from(model) != model_from:
        make_model(model, model_from, data, args.clips, args.steps)
    print(f"made {data} and {model} in {time.monotonic() - began:.0f} s")


def fingerprint(*files: str, **settings: int | str) -> str:
    """A hash of the code and the settings that something is made from."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        digest.update((HERE / file).read_bytes())
    return digest.hexdigest()


def made_from(folder: Path) -> str | None:
    """The fingerprint a finished folder was made from, or None if there is none."""
    record = folder / RECORD
    return json.loads(record.read_text())["fingerprint"] if record.exists() else None


def partial(folder: Path, made: str) -> Path:
    """Where a folder is made before it is moved into place. One that was made from the same is gone on with."""
    for stale in folder.parent.glob(f".{folder.name}-*"):
        if stale.name != f".{folder.name}-{made[:12]}":
            shutil.rmtree(stale)
    path = folder.parent / f".{folder.name}-{made[:12]}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def finish(path: Path, folder: Path, made: str) -> None:
    """Moves a complete folder into place, where an older one makes room."""
    (path / RECORD).write_text(json.dumps({"fingerprint": made}))
    if folder.exists():
        shutil.rmtree(folder)
    path.replace(folder)


def make_data(folder: Path, made: str, clips: int) -> None:
    """Speaks the corpus and writes it."""
    import corpus

    path = partial(folder, made)
    corpus.write(corpus.plan(path, clips), path)
    finish(path, folder, made)


def make_model(folder: Path, made: str, data: Path, clips: int, steps: int) -> None:
    """Builds the model, warm-starts it, measures it, and saves it."""
    import torch

    import corpus
    import tiny_model
    import warm_start

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    path, began = partial(folder, made), time.monotonic()
    spoken = corpus.plan(data, clips)
    processor = tiny_model.build_processor()
    model = tiny_model.build_model(processor)
    report = {"parameters": model.num_parameters(), "clips": clips, "steps": steps}
    if steps:
        warm_start.train(model, warm_start.Speech.load(processor, spoken.train), steps)
        val = warm_start.Speech.load(processor, spoken.val)
        report |= warm_start.measure(model, val, warm_start.Speech.load(processor, corpus.swapped(spoken.val)))
        if report["window_error"] > 1e-4:
            raise RuntimeError(f"the full window gives other log-probabilities: off by {report['window_error']:.1e}")
    else:
        tiny_model.make_audible(model)
    report["seconds"] = round(time.monotonic() - began, 1)
    tiny_model.save_hub_layout(model, processor, path)
    (path / "warmstart.json").write_text(json.dumps(report, indent=2) + "\n")
    finish(path, folder, made)
    print("warm start: " + ", ".join(f"{name} {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
