"""Damaged traces and metrics in their thousands: `tree`, `forks` and `curves` must end well, soon and in little memory.

    python -m tests.benchmarks.fuzz_traces [--cases 10000] [--seed 0]

A case damages one file of a small run and gives the run to one of the commands. It ends well as a result, in which
everything that was not damaged is still there, or as an error of one line. Prints how many ended how; folders that ended
otherwise are kept, with the seed that makes them again. Every figure is made; one in fifty is also rendered to its
files, which would take most of the time.
"""

import contextlib
import csv
import functools
import io
import json
import math
import random
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import fuzzing
from tests.helpers.traced import WORKED, traced_prompt, write_trace
from verl_leaf.cli import main as verl_leaf
from verl_leaf.show import curves, figures, forks

GOOD = {"result", "error of one line"}
DAMAGED_STEP, WHOLE_STEP = 10, 20
DAMAGED_RUN, WHOLE_RUN = "damaged", "whole"
COMMANDS = {
    "tree": ["traces/step_000010.jsonl"],
    "forks": ["traces/step_000010.jsonl"],
    "curves": ["metrics/000.jsonl", "metrics/000.jsonl", "summary.json", "hydra/.hydra/config.yaml"],
}
WEIGHTS = [8, 1, 1]  # drawing a figure takes ten times as long as writing a page
VALUES = [None, True, 0, -1, 1, 7, 10**6, 10**30, 10**400, 1e308, -1e308, 5e-324, 0.5, "", "x", "\u2028\x85\x00\ud800"]
VALUES += [[], {}, [[]], [None], {"a": None}, math.nan, math.inf, [[[[[[[[]]]]]]]], "$\\frac{$", "</script>"]


def write_run(folder: Path) -> None:
    """A run of two steps and one method, with all that the three commands read."""
    equal, other = {**WORKED, "rewards": [0.5] * 4}, {**WORKED, "rewards": [0.0, 1.0, 1.0, 0.25]}
    for step in (DAMAGED_STEP, WHOLE_STEP):
        write_trace(folder / "traces", step, [traced_prompt(**own) for own in (WORKED, equal, other)])
    for name in ("metrics", "hydra/.hydra"):
        (folder / name).mkdir(parents=True)
    lines = [
        {
            "critic/score/mean": step / 10,
            "timing_s/step": 3.0,
            "training/global_step": step,
            **({"val-core/spoken/reward/mean@1": step / 8} if step % 2 == 0 else {}),
        }
        for step in range(5)
    ]
    text = "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in enumerate(lines))
    (folder / "metrics/000.jsonl").write_text(text)
    (folder / "summary.json").write_text(json.dumps({"val": {"before": None, "after": {"bleu": 61.5, "reward": 0.5}}}))
    (folder / "hydra/.hydra/config.yaml").write_text(
        "algorithm:\n  adv_estimator: leaf\n  leaf: {fork_budget: 2}\ndata: {train_batch_size: 4, seed: 1}\n"
        "actor_rollout_ref:\n  rollout: {n: 8}\n"
    )


def damage(data: bytes, generator: random.Random) -> bytes:
    """One to three wounds, to the bytes or to values of the JSON."""
    for _ in range(generator.randint(1, 3)):
        data = generator.choice([_damaged_bytes, _damaged_lines, _damaged_values, _damaged_values])(data, generator)
    return data


def _damaged_bytes(data: bytes, generator: random.Random) -> bytes:
    data = bytearray(data)
    where = generator.randrange(len(data) + 1)
    kind = generator.randrange(5)
    if kind == 0:
        data[where : where + 1] = generator.randbytes(1)
    elif kind == 1:
        del data[where : where + generator.randint(1, 64)]
    elif kind == 2:
        data[where:where] = generator.choice(["\u2028", "\x85", "\ufeff", "[" * 5000, "9" * 400, "\r\n", "ä"]).encode()
    elif kind == 3:
        del data[where:]
    else:
        return bytes(data).decode(errors="replace").encode(generator.choice(["utf-16", "utf-8-sig", "utf-32"]))
    return bytes(data)


def _damaged_lines(data: bytes, generator: random.Random) -> bytes:
    lines = data.split(b"\n")
    line = generator.choice(lines)
    lines.insert(generator.randrange(len(lines) + 1), generator.choice([line, b"", b"null", b"[]", b"{}", b"3", b"\0"]))
    if generator.random() < 0.5:
        lines.remove(line)
    return b"\n".join(lines)


def _damaged_values(data: bytes, generator: random.Random) -> bytes:
    """Another value, or none, anywhere in one line; data without a line of JSON stays as it is."""
    lines = data.split(b"\n")
    number = generator.randrange(len(lines))
    try:
        root = [json.loads(lines[number])]
        places = list(_places(root))
        holder, key = generator.choice(places)
        if generator.random() < 0.2 and holder is not root:
            del holder[key]
        else:
            holder[key] = generator.choice(VALUES)
        lines[number] = json.dumps(root[0]).encode()
    except (ValueError, RecursionError):
        pass
    return b"\n".join(lines)


def _places(value) -> Iterator[tuple]:
    """Every place in nested lists and dictionaries, as what holds it and its key; large lists only here and there."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], list | dict):
            yield from _places(value[key])


def case(seed: int, folder: Path) -> str:
    """Makes the two runs of a case; the command that is to read them."""
    generator = random.Random(seed)
    (command,) = generator.choices(list(COMMANDS), WEIGHTS)
    for run in (DAMAGED_RUN, WHOLE_RUN):
        shutil.copytree(_template(), folder / run)
    file = folder / DAMAGED_RUN / generator.choice(COMMANDS[command])
    file.write_bytes(damage(file.read_bytes(), generator))
    return command


def outcome(seed: int) -> str:
    """How a case ends, in a process whose memory and time are limited."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = case(seed, folder)
        runs = [folder / DAMAGED_RUN] if command == "tree" else [folder / DAMAGED_RUN, folder / WHOLE_RUN]
        out = folder / ("tree.html" if command == "tree" else command)
        printed, complaint = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
                status = verl_leaf([command, *map(str, runs), "--out", str(out)])
        except Exception as error:
            return f"{command}: {type(error).__name__}"
        if status:
            one_line = complaint.getvalue().count("\n") == 1 and complaint.getvalue().startswith(
                f"verl-leaf {command}: "
            )
            return "error of one line" if one_line else f"{command}: error of several lines"
        whole = _page_is_whole(out) if command == "tree" else _numbers_are_whole(Path(f"{out}.csv"), command)
        return "result" if whole else f"{command}: wrong result"


def _page_is_whole(page: Path) -> bool:
    """Return whether the page's data is strict JSON and contains all prompts of the undamaged step."""
    text = page.read_text(encoding="utf-8").split('type="application/json">')[1].split("</script>")[0]
    steps = {own["step"]: own["prompts"] for own in json.loads(text, parse_constant=_refuse)["steps"]}
    return sorted(prompt["id"] for prompt in steps[WHOLE_STEP]) == [1, 2, 3]


def _numbers_are_whole(file: Path, command: str) -> bool:
    """Return whether all numbers are finite and those of the undamaged run are right."""
    rows = _rows(file)
    finite = all(math.isfinite(float(row["value"])) for row in rows)
    return finite and [row for row in rows if row["run"] == WHOLE_RUN] == _whole_rows(command)


def _rows(file: Path) -> list[dict[str, str]]:
    """Rows without the name of the method, which depends on what the other run's configuration says."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [{key: value for key, value in row.items() if key != "method"} for row in csv.DictReader(lines)]


@functools.cache
def _whole_rows(command: str) -> list[dict[str, str]]:
    """What a command says of the run that is not damaged."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        shutil.copytree(_template(), Path(name) / WHOLE_RUN)
        verl_leaf([command, f"{name}/{WHOLE_RUN}", "--out", f"{name}/out"])
        return _rows(Path(name) / "out.csv")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="whole_run_"))
    write_run(folder)
    return folder


def _save_some(out, figure, rows, console) -> None:
    """Render one figure in fifty, chosen by its numbers so that a case does the same each time."""
    if zlib.crc32(repr(rows).encode()) % 50 == 0:
        figures.save(out, figure, rows, console)
    else:
        figures.write_csv(Path(f"{out}.csv"), rows)


def begin() -> None:
    """Draw everything once."""
    forks.DRAWS = 20  # of each bootstrap
    for command in ("forks", "curves"):
        _whole_rows(command)
    forks.save = curves.save = _save_some


if __name__ == "__main__":
    fuzzing.fuzz(fuzzing.arguments(__doc__).parse_args(), begin, outcome, GOOD, case, seconds=60)
