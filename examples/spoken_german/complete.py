"""A script that makes a spoken corpus and a model, each complete or not there at all."""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from verl_leaf.common.files import move_folder

HERE = Path(__file__).parent
DATA_FILES = tuple(HERE / f"{name}.py" for name in ("phrases", "synthesis", "corpus"))
MODELS = HERE.parents[1] / "verl_leaf/models"
MODEL_FILES = (HERE / "tiny_model.py", HERE / "warm_start.py", MODELS / "tiny.py", MODELS / "qwen2_audio/tiny.py")
RECORD = "made_from.json"


def prepare(
    doc: str,
    steps: int,
    files: tuple[Path, ...],
    make_data: Callable[[Path, int], None],
    make_model: Callable[[Path, Path, int, int], None],
) -> None:
    """The script: makes `DIR/data` and `DIR/model`, unless they were made from the same code and settings before.

    Args:
        doc: what the script's help says.
        steps: the default of the warm start's length.
        files: the script's own code that both are made from, beside what is here.
        make_data: given a folder and the number of training clips.
        make_model: given a folder, the finished data, the number of training clips and of steps.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for data/ and model/")
    parser.add_argument("--clips", type=int, default=3600, help="training clips (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=steps, help="warm-start steps; 0 leaves the model random (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.clips < 8:
        parser.error("--clips: at least 8")
    data, model = args.out / "data", args.out / "model"
    data_from = _fingerprint(*DATA_FILES, *files, clips=args.clips)
    model_from = _fingerprint(*MODEL_FILES, *files, data=data_from, steps=args.steps)
    if _made_from(data) == data_from and _made_from(model) == model_from:
        print(f"all there already: {data}, {model}")
        return

    began = time.monotonic()
    _make(data, data_from, lambda path: make_data(path, args.clips))
    _make(model, model_from, lambda path: make_model(path, data, args.clips, args.steps))
    print(f"made {data} and {model} in {time.monotonic() - began:.0f} s")


def _fingerprint(*files: Path, **settings: int | str) -> str:
    """A hash of the code and the settings that something is made from."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _make(folder: Path, made: str, fill: Callable[[Path], None]) -> None:
    """Fills a folder and moves it into place, where an older one makes room; one made from the same stays."""
    if _made_from(folder) == made:
        return
    path = _partial(folder, made)
    fill(path)
    (path / RECORD).write_text(json.dumps({"fingerprint": made}))
    move_folder(path, folder)


def _made_from(folder: Path) -> str | None:
    """The fingerprint a finished folder was made from, or None if there is none."""
    record = folder / RECORD
    return json.loads(record.read_text())["fingerprint"] if record.exists() else None


def _partial(folder: Path, made: str) -> Path:
    """Where a folder is made before it is moved into place. One that was made from the same is gone on with."""
    for stale in folder.parent.glob(f".{folder.name}-*"):
        if stale.name != f".{folder.name}-{made[:12]}":
            shutil.rmtree(stale)
    path = folder.parent / f".{folder.name}-{made[:12]}"
    path.mkdir(parents=True, exist_ok=True)
    return path
