"""Write a manifest of the human recordings in Debian's ``pocketsphinx-testdata`` for ``verl-leaf prepare manifest``.

python -m examples.human_speech.prepare --out FOLDER
"""

import argparse
import csv
import re
from pathlib import Path

RECORDINGS = Path("/usr/share/pocketsphinx/test/data/librivox")
LINE = re.compile(r"<s> (.+) </s> \((.+)\)")  # of the file of transcripts
QUESTION = "Write down what is said."


def clips(recordings: Path = RECORDINGS) -> list[tuple[str, str]]:
    """Return the transcript and the name of each recording.

    Raises:
        SystemExit: the folder has no transcripts.
    """
    if not (recordings / "transcription").exists():
        raise SystemExit(f"{recordings}: there are no recordings. Run apt-get install pocketsphinx-testdata")
    lines = (recordings / "transcription").read_text(encoding="utf-8").splitlines()
    return [found.groups() for line in lines if (found := LINE.fullmatch(line.strip()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recordings", type=Path, default=RECORDINGS, help="folder of the recordings (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for manifest.csv")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "audio", "question", "answer", "split"])
        for text, name in clips(options.recordings):
            rows.writerow([name, (options.recordings / f"{name}.wav").absolute(), QUESTION, text, "test"])


if __name__ == "__main__":
    main()
