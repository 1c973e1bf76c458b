"""The Dockerfile. It cannot be built without a registry of images, so its text is compared with what is tested."""

import re
import shlex

from tests.helpers import PROJECT

DOCKERFILE = (PROJECT / "recipes" / "Dockerfile").read_text()
LANE = (PROJECT / "tests" / "versions" / "lane.sh").read_text()


def uv_command(text: str, name: str) -> list[str]:
    """Return the words of the last ``uv pip NAME`` of a script, of which lane.sh's is for GPUs."""
    text = text.replace("\\\n", " ").replace('"$set"', "gpu")
    return shlex.split(re.findall(rf"uv\"? (pip {name} [^&\n]*)", text)[-1])


def options(words: list[str], *of_the_lane: str) -> set[tuple[str, ...]]:
    """Return a command's options with their values, without some that only the lane needs, and without output files."""
    pairs = {(word, value) for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}
    flags = {"--quiet", "--no-config"}
    return {
        (option,) if option in flags else (option, value)
        for option, value in pairs
        if option not in {"--output-file", *of_the_lane}
    }


def test_versions_are_resolved_as_in_the_lane_for_gpus():
    in_the_image, in_the_lane = uv_command(DOCKERFILE, "compile"), uv_command(LANE, "compile")
    assert options(in_the_image) == options(in_the_lane, "--python", "--override")
    assert "pyproject.toml" in in_the_image
    assert "pyproject.toml" in in_the_lane


def test_resolved_versions_are_installed():
    output = re.search(r"--output-file (\S+)", DOCKERFILE)[1]
    assert ("--constraint", output) in options(uv_command(DOCKERFILE, "install"))
    assert ".[gpu,examples]" in uv_command(DOCKERFILE, "install")


def test_the_image_has_the_vllm_of_the_extra_for_gpus():
    version = re.search(r"^FROM verlai/verl:vllm(\d)(\d+)\.latest$", DOCKERFILE, re.MULTILINE)
    assert f'gpu = ["verl-leaf[verl]", "vllm=={version[1]}.{version[2]}.0"]' in (PROJECT / "pyproject.toml").read_text()
