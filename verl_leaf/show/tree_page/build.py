"""The page of ``verl-leaf tree``: the traces of a run as one HTML file that opens from disk."""

import base64
import hashlib
import io
import json
import statistics
from importlib.resources import files
from itertools import chain, starmap
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from verl_leaf.common.console import Console
from verl_leaf.common.files import is_inside
from verl_leaf.data.audio import load_audio
from verl_leaf.data.references import absolute_audio, contents
from verl_leaf.runs.traces import read_traces, trace_files, traces_folder
from verl_leaf.show import say_skipped
from verl_leaf.show.advantages import VIEWS, PromptAdvantages, step_advantages
from verl_leaf.show.tree_page.trie import Edge, prefix_trie, span_at
from verl_leaf.training.traces.schema import Prompt

STEPS = 12  # most steps of a run that are shown, evenly spaced
PROMPTS = 12  # most prompts of a step that are shown: those that LEAF changed most
TREE_BYTES = 4_000_000
AUDIO_BYTES = 2_700_000  # in base64, which is a third larger
AUDIO_RATE = 16_000  # Hz
AUDIO_COMPRESSION = 0.9  # libsndfile's compression of mp3: 24 kbit/s at this rate
OUTSIDE = "Not in this page: it is outside of the run's folder."
JSON: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}

Prompts = list[tuple[int, dict]]  # steps, and the page's data of a prompt


def write_tree(run: Path, out: Path, steps: list[int] | None, console: Console, audio: Path | None = None) -> None:
    """Write the page of a run.

    Args:
        run: folder of a run, or of traces.
        steps: steps to show, or None for up to ``STEPS`` of the traced ones.
        audio: folder of clips that may be included besides those in the run's folder. The limit exists because traces can
            name any path, and the page may be given to others.

    Raises:
        ValueError: the run has no traces, none of a requested step, or none that can be read.
    """
    folder = traces_folder(run)
    left_out: list[str] = []
    skipped: list[str] = []
    chosen = _chosen_steps(folder, steps, left_out)
    prompts = _changed_most(folder, chosen, left_out, skipped, console)
    if not prompts:
        raise ValueError(f"{folder}: no prompt can be read: {'; '.join(skipped[:3]) or 'the files contain none'}")
    prompts = _that_fit(prompts, left_out)
    clips = _add_audio(folder, [run, *([audio] if audio else [])], prompts, left_out)
    shown = sorted({step for step, _ in prompts})
    page = render(
        {
            "title": run.resolve().name,
            "steps": [{"step": step, "prompts": [prompt for at, prompt in prompts if at == step]} for step in shown],
            "clips": clips,
            "views": VIEWS,
            "left_out": left_out,
            "skipped": skipped,
        }
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    counts = f"{len(prompts)} trees of {len(shown)} step{'s' if len(shown) > 1 else ''}"
    console.print(f"{counts}, {len(page.encode()) / 1e6:.1f} MB: {out}")
    say_skipped("Left out", left_out, console)
    say_skipped("Could not be read", skipped, console)


def _chosen_steps(folder: Path, wanted: list[int] | None, left_out: list[str]) -> list[int]:
    traced = list(trace_files(folder))
    missing = sorted(set(wanted or ()) - set(traced))
    if missing:
        raise ValueError(
            f"{folder} contains no trace of step {missing[0]}. The traced steps are {', '.join(map(str, traced))}"
        )
    chosen = sorted(set(wanted)) if wanted else _evenly(traced, STEPS)
    if len(chosen) < len(traced):
        left_out.append(f"{len(traced) - len(chosen)} of {len(traced)} traced steps (choose with --steps)")
    return chosen


def _changed_most(folder: Path, steps: list[int], left_out: list[str], skipped: list[str], console: Console) -> Prompts:
    """Return the prompts of each step that LEAF changed most: the first of every step, then the second, and so on."""
    ranked: list[Prompts] = []
    for trace in read_traces(folder, steps, "Reading traces", skipped, console):
        advantages = step_advantages(list(trace.prompts.values()))
        lines = [(*line, of) for line, of in zip(trace.prompts.items(), advantages, strict=True)]
        prompts = sorted(starmap(page_prompt, lines), key=lambda prompt: -prompt["change"])
        if (more := len(prompts) - PROMPTS) > 0:
            left_out.append(f"the {more} of {len(prompts)} prompts of step {trace.step} that LEAF changed least")
        ranked.append([(trace.step, prompt) for prompt in prompts[:PROMPTS]])
    return [prompts[rank] for rank in range(PROMPTS) for prompts in ranked if rank < len(prompts)]


def _that_fit(prompts: Prompts, left_out: list[str]) -> Prompts:
    """Return as many prompts as ``TREE_BYTES`` allow, at least one."""
    room = TREE_BYTES
    fitting: Prompts = []
    for step, prompt in prompts:
        size = len(json.dumps(prompt, **JSON).encode())
        if size <= room or not fitting:
            fitting.append((step, prompt))
            room -= size
    if len(fitting) < len(prompts):
        too_many = len(prompts) - len(fitting)
        left_out.append(f"{too_many} prompts that would make the page larger than {TREE_BYTES // 1_000_000} MB")
    return fitting


def _add_audio(folder: Path, allowed: list[Path], prompts: Prompts, left_out: list[str]) -> list[dict]:
    """Return the page's clips without repetition, as many as ``AUDIO_BYTES`` allow; prompts get their numbers for paths."""
    numbers: dict[str | None, int] = {}
    for _, prompt in prompts:
        prompt["audio"] = [numbers.setdefault(path, len(numbers)) for path in prompt["audio"]]
    clips, room, too_many, outside = [], AUDIO_BYTES, 0, 0
    for path in numbers:
        clip = _clip(folder, allowed, path)
        outside += clip.get("note") == OUTSIDE
        size = len(clip.get("url", ""))
        if size > room:
            clip, size, too_many = {"name": path, "note": "Left out of this page because of its size."}, 0, too_many + 1
        clips.append(clip)
        room -= size
    if too_many:
        left_out.append(f"the audio of {too_many} clips, beyond {AUDIO_BYTES // 1_000_000} MB")
    if outside:
        left_out.append(f"the audio of {outside} clips outside of the run's folder (--audio FOLDER includes it)")
    return clips


def _clip(folder: Path, allowed: list[Path], path: str | None) -> dict:
    """Return a clip as mp3 in a data URL, or a note on why it is missing."""
    if path is None:
        return {"note": "The data contains this clip as samples, and the trace has no copy."}
    try:
        reference = absolute_audio(path, str(folder))
        _, file = contents(reference)
        if file is not None and not any(is_inside(file, root) for root in allowed):
            return {"name": path, "note": OUTSIDE}
        mp3 = encode(load_audio(reference, AUDIO_RATE))
    except ValueError as error:
        return {"name": path, "note": f"Not in this page: {error}"}
    return {"name": path, "url": "data:audio/mpeg;base64," + base64.b64encode(mp3).decode()}


def page_prompt(number: int, prompt: Prompt, advantages: PromptAdvantages) -> dict:
    """Return the page's data of a prompt: the numbers of the trace, and other estimators' advantages.

    ``audio`` contains paths until they become numbers of clips. ``change`` is the mean of ``|A_LEAF - A_GRPO|`` over the
    policy's tokens.
    """
    changes = [
        abs(span.advantage - grpo)
        for response, grpo in zip(prompt.responses, advantages.grpo, strict=True)
        for span in response.spans
        for written in response.policy[span.start : span.end]
        if written
    ]
    return {
        "id": number,
        "source": str(prompt.data_source),
        "prompt": prompt.prompt,
        "reference": _text(prompt.reference),
        "audio": prompt.audio,
        "rootValue": prompt.root_value,
        "early": advantages.early,
        "change": statistics.fmean(changes) if changes else 0.0,
        "boundaries": [
            {**boundary.model_dump(), "fired": prompt.fired(index), "usable": prompt.usable(index)}
            for index, boundary in enumerate(prompt.boundaries)
        ],
        "nodes": [node.model_dump() for node in prompt.nodes],
        "responses": [
            {
                "reward": response.reward,
                "grpo": grpo,
                # Three digits are more than a bar can show. Infinity becomes null.
                "surprisal": [None if nats is None else round(nats, 3) for nats in response.surprisal],
                "spans": [span.model_dump() for span in response.spans],
            }
            for response, grpo in zip(prompt.responses, advantages.grpo, strict=True)
        ],
        "edges": [_page_edge(prompt, advantages, edge) for edge in prefix_trie(prompt)],
    }


def _page_edge(prompt: Prompt, advantages: PromptAdvantages, edge: Edge) -> dict:
    first = prompt.responses[edge.responses[0]]
    spans = [span_at(prompt, index, edge) for index in edge.responses]
    # The gradient of shared tokens sums their responses' advantages; those of a branch's tokens may differ.
    means = {
        "leaf": statistics.fmean(span.advantage if span else 0.0 for span in spans),
        "grpo": statistics.fmean(advantages.grpo[index] for index in edge.responses),
    }
    for name, responses in advantages.tokens.items():
        rows = [responses[index][edge.start : edge.end] or [0.0] for index in edge.responses]
        means[name] = statistics.fmean(chain.from_iterable(rows))
    return {
        "start": edge.start,
        "end": edge.end,
        "pieces": first.pieces[edge.start : edge.end],
        "tool": [at for at in range(edge.start, edge.end) if not first.policy[at]],
        "responses": edge.responses,
        "spans": [
            prompt.responses[index].spans.index(span) if span else None
            for index, span in zip(edge.responses, spans, strict=True)
        ],
        # More digits than are displayed would be a quarter of the page.
        "advantages": {name: round(mean, 7) for name, mean in means.items()},
        "node": edge.node,
        "ends": edge.ends,
        "children": [_page_edge(prompt, advantages, child) for child in edge.children],
    }


def encode(waveform: np.ndarray) -> bytes:
    """Return a mono waveform at ``AUDIO_RATE`` as mp3."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, waveform, AUDIO_RATE, format="MP3", compression_level=AUDIO_COMPRESSION, bitrate_mode="CONSTANT"
    )
    return buffer.getvalue()


def render(data: dict) -> str:
    """Return the HTML page. Its content security policy allows only its own script, and loads nothing."""
    folder = files("verl_leaf.show.tree_page") / "page"
    css, library, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "vendor/htm-preact.js", "page.js")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = JSON
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    scripts = [library, script]
    return template.render(
        data=data, css=css, scripts=scripts, css_hash=_hash(css), script_hashes=[_hash(text) for text in scripts]
    )


def _hash(text: str) -> str:
    """Return the hash by which a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(reference) -> str:
    if isinstance(reference, str):
        return reference
    if isinstance(reference, list):
        return " / ".join(map(_text, reference))
    return json.dumps(reference, ensure_ascii=False)


def _evenly(items: list[int], count: int) -> list[int]:
    """Return at most ``count`` items with even gaps, including the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
