"""A script that makes a spoken corpus and a model, each completely or not at all."""

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
    """Run the script: make `DIR/data` and `DIR/model`, unless they were made from the same code and settings before.

    Args:
        doc: description in the script's help.
        steps: default number of warm-start steps.
        files: code of the script from which both are made, in addition to this package's.
        make_data: function of a folder and the number of training clips.
        make_model: function of a folder, the finished data, the number of training clips and the number of steps.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for data/ and model/")
    parser.add_argument("--clips", type=int, default=3600, help="training clips (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=steps, help="warm-start steps; 0 leaves the model random (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.clips < 8:
        parser.error(f"--clips {args.clips}: too few. Give at least 8")
    data, model = args.out / "data", args.out / "model"
    data_from = _fingerprint(*DATA_FILES, *files, clips=args.clips)
    model_from = _fingerprint(*MODEL_FILES, *files, data=data_from, steps=args.steps)
    if _made_from(data) == data_from and _made_from(model) == model_from:
        print(f"{data} and {model} are already complete")
        return

    began = time.monotonic()
    _make(data, data_from, lambda path: make_data(path, args.clips))
    _make(model, model_from, lambda path: make_model(path, data, args.clips, args.steps))
    print(f"made {data} and {model} in {time.monotonic() - began:.0f} s")


def _fingerprint(*files: Path, **settings: int | str) -> str:
    """Return a hash of the code and the settings from which something is made."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _make(folder: Path, made: str, fill: Callable[[Path], None]) -> None:
    """Fill a folder and move it into place, replacing an older one; keep one that was made from the same."""
    if _made_from(folder) == made:
        return
    path = _partial(folder, made)
    fill(path)
    (path / RECORD).write_text(json.dumps({"fingerprint": made}))
    move_folder(path, folder)


def _made_from(folder: Path) -> str | None:
    """Return the fingerprint from which a finished folder was made, or None if there is none."""
    record = folder / RECORD
    return json.loads(record.read_text())["fingerprint"] if record.exists() else None


def _partial(folder: Path, made: str) -> Path:
    """Return the folder in which one is made before it is moved into place; continue one made from the same."""
    for stale in folder.parent.glob(f".{folder.name}-*"):
        if stale.name != f".{folder.name}-{made[:12]}":
            shutil.rmtree(stale)
    path = folder.parent / f".{folder.name}-{made[:12]}"
    path.mkdir(parents=True, exist_ok=True)
    return path
