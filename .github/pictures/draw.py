"""Draw the pictures of the READMEs: ``python .github/pictures/draw.py`` writes the SVG files beside this file.

Each picture is at most 640 units wide, so that its text can be read on a narrow screen, and follows the reader's light or dark
theme. The advantages in ``idea.svg`` and the mask in ``packing.svg`` are computed by the package.
"""

from html import escape
from pathlib import Path

import numpy as np
import torch

from verl_leaf.algorithm import grpo_advantages, leaf_advantages
from verl_leaf.training.sharing.pack import pack

HERE = Path(__file__).parent
# Okabe and Ito's blue, vermilion, green and grey: distinct for colour-blind readers.
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"
STYLE = """
svg { color: #1f2328; background: #ffffff; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
text { fill: currentColor }
.line { stroke: currentColor; fill: none }
.weak { opacity: .75 }
@media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117 } }
"""

# The README's example: German translations of "two old dogs sleep in the garden".
RESPONSES = (
    "zwei alte Hunde schlafen im Garten",
    "zwei alte Hunde dösen im Garten",
    "zwei müde Köter schlafen im Garten",
)
SURPRISAL = (
    (0.1, 1.4, 0.3, 1.1, 0.1, 0.2),
    (0.1, 1.4, 0.3, 1.2, 0.1, 0.2),
    (0.1, 1.6, 0.9, 0.8, 0.1, 0.2),
)
REWARDS = (1.0, 0.7, 0.1)


class Picture:
    """An SVG under construction; coordinates are in units of the picture, y runs downwards."""

    def __init__(self, title: str, height: int, width: int = 640) -> None:
        self.title, self.height, self.width = title, height, width
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, size: int = 16, anchor: str = "middle", **style: str) -> None:
        attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{attributes}>{escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 0.2, dashed: bool = False
    ) -> None:
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{colour}" '
            f'fill-opacity="{opacity:.2f}" stroke="{colour}" stroke-width="1.5"{dashes}/>'
        )

    def labelled(
        self, x: float, y: float, width: float, lines: tuple[str, ...], colour: str = GREY, height: float = 0
    ) -> None:
        """Draw a box with a bold first line and further lines below it."""
        self.box(x, y, width, height or 18 + 20 * len(lines), colour, 0.14)
        for number, line in enumerate(lines):
            bold = {"font_weight": "600"} if number == 0 else {}
            self.text(x + width / 2, y + 24 + 20 * number, line, 16 if number == 0 else 14, **bold)

    def arrow(
        self,
        points: list[tuple[float, float]],
        colour: str = "currentColor",
        label: str = "",
        at: tuple[float, float] | None = None,
        anchor: str = "start",
    ) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        (x0, y0), (x, y) = points[-2:]
        head = 7
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        tip = f"{x:g},{y:g} {x - head * dx - head * 0.6 * dy:g},{y - head * dy - head * 0.6 * dx:g} {x - head * dx + head * 0.6 * dy:g},{y - head * dy + head * 0.6 * dx:g}"
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        self.parts.append(f'<polygon points="{tip}" fill="{colour}"/>')
        if label and at:
            self.text(*at, label, 14, anchor)

    def dashes(self, x: float, top: float, bottom: float) -> None:
        self.parts.append(
            f'<line class="line" x1="{x:g}" y1="{top:g}" x2="{x:g}" y2="{bottom:g}" stroke-dasharray="5 4"/>'
        )

    def svg(self) -> str:
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
        )


def idea() -> Picture:
    """Three responses, two boundaries, and the advantage of each span."""
    words = [response.split() for response in RESPONSES]
    ids = {word: number for number, word in enumerate(dict.fromkeys(word for row in words for word in row))}
    tokens = torch.tensor([[ids[word] for word in row] for row in words])
    rewards, mask, group = torch.tensor(REWARDS), torch.ones(3, 6), torch.zeros(3, dtype=torch.long)
    advantages = leaf_advantages(tokens, torch.tensor(SURPRISAL), rewards, mask, group, fork_budget=2).advantages
    grpo = grpo_advantages(rewards, group)

    picture = Picture("LEAF: the tree of three responses, and the advantage of each span", 340, 530)
    picture.text(10, 24, "Prompt: translate the spoken “two old dogs sleep in the garden”.", 15, "start")
    rows, left, middle, right, end = (88, 158, 228), 8, 86, 214, 404
    spans = (  # rows, from, to, row and column of a token in it
        (slice(0, 3), left, middle, 0, 0),
        (slice(0, 2), middle, right, 0, 1),
        (slice(0, 1), right, end, 0, 3),
        (slice(1, 2), right, end, 1, 3),
        (slice(2, 3), middle, end, 2, 1),
    )
    texts = ("zwei", "alte Hunde", "schlafen im Garten", "dösen im Garten", "müde Köter schlafen im Garten")
    for (lines, x, until, row, column), text in zip(spans, texts, strict=True):
        value = advantages[row, column].item()
        top, bottom = rows[lines.start], rows[lines.stop - 1] + 60
        picture.box(
            x + 4, top, until - x - 8, bottom - top, BLUE if value > 0 else RED, 0.06 + min(abs(value) / 2.2, 1) * 0.55
        )
        centre, y = (x + until) / 2, (top + bottom) / 2
        picture.text(centre, y - 3, text)
        picture.text(centre, y + 19, f"{value:+.2f}", 16, font_weight="700")
    for x, bottom, number in ((middle, rows[2] + 60, 1), (right, rows[1] + 60, 2)):
        picture.dashes(x, 62, bottom)
        picture.text(x, 56, f"◆ boundary {number}", 14)
    for x, title in ((438, "reward"), (496, "GRPO")):
        picture.text(x, 56, title, 14)
    for y, reward, same in zip(rows, REWARDS, grpo.tolist(), strict=True):
        picture.text(438, y + 36, f"{reward:.1f}", 16)
        picture.text(496, y + 36, f"{same:+.2f}", 16, font_weight="700")
    picture.text(10, 312, "A box is a span: words that its responses share, with one advantage.", 15, "start")
    picture.text(10, 332, "Blue is above 0, orange below. GRPO gives a response one for all words.", 15, "start")
    return picture


def step() -> Picture:
    """The way of a clip (blue) and of a reward (red) through a training step."""
    picture = Picture("A training step: the way of a clip and of a reward", 800)
    picture.labelled(20, 20, 260, ("train.parquet", "prompt, audios, reward_model"))
    picture.arrow([(280, 49), (350, 49)], BLUE)
    picture.labelled(350, 20, 270, ("dataset", "speech/dataset.py: checked rows"))
    picture.arrow([(485, 78), (485, 118)], BLUE, "messages, path of the clip", (475, 103), "end")
    picture.labelled(
        20,
        118,
        600,
        (
            "agent loop",
            "speech/agent_loop.py: renders the prompt, decodes the clip,",
            "computes its features: once per prompt",
        ),
    )
    picture.arrow([(150, 196), (150, 254)], BLUE, "features", (160, 230))
    picture.arrow([(480, 196), (480, 254)], BLUE, "waveform", (490, 230))
    picture.labelled(
        20,
        254,
        260,
        ("TransferQueue", "features: once per prompt", "tokens, log-probabilities", "and reward: per response"),
        height=204,
    )
    picture.labelled(360, 254, 260, ("vLLM", "models/*/vllm.py", "8 responses per prompt"))
    picture.arrow([(480, 332), (480, 380)], RED, "text", (490, 362))
    picture.labelled(360, 380, 260, ("reward", "rewards/: text against", "reference, a score in [0, 1]"))
    picture.arrow([(360, 290), (280, 290)], GREY, "tokens", (320, 282), "middle")
    picture.arrow([(360, 420), (280, 420)], RED, "score", (320, 412), "middle")
    picture.arrow([(90, 458), (90, 516)], BLUE, "features", (100, 492))
    picture.arrow(
        [(250, 458), (250, 486), (485, 486), (485, 516)], RED, "tokens, log-probabilities, rewards", (262, 478)
    )
    picture.labelled(
        20, 516, 260, ("actor and reference", "training/sharing/: shared", "prompt computed once", "log-probabilities")
    )
    picture.labelled(
        350,
        516,
        270,
        (
            "advantage",
            "training/estimator.py calls",
            "algorithm/leaf.py: tree, spans,",
            "one advantage per token; traces",
        ),
    )
    picture.arrow([(150, 614), (150, 672)], BLUE)
    picture.arrow([(485, 614), (485, 672)], RED, "advantages", (475, 648), "end")
    picture.labelled(
        20, 672, 600, ("update", "FSDP2 actor, LoRA: clipped loss plus KL to the base model,", "6 updates per step")
    )
    picture.arrow([(620, 711), (632, 711), (632, 293), (620, 293)], GREEN)
    picture.text(616, 776, "green: the new adapter goes to vLLM, and the next step begins", 14, "end")
    return picture


def processes() -> Picture:
    """Which processes a run has on a node, and what each computes."""
    picture = Picture("Processes of a run on one node with 8 GPUs", 520)
    picture.text(20, 26, "One node with 8 GPUs, the published configuration", 16, "start", font_weight="600")
    for number, x in enumerate((20, 226, 432)):
        name = ("GPU 0", "GPU 1", "… GPU 7")[number]
        picture.box(x, 44, 188, 190, GREY, 0.06)
        picture.text(x + 94, 66, name, 15, font_weight="600")
        picture.labelled(x + 10, 78, 168, ("actor rank", "log-probs, update"), BLUE)
        picture.labelled(x + 10, 158, 168, ("vLLM server", "generates"), GREEN)
        picture.text(x + 94, 152, "take turns", 13, **{"class": "weak"})
    picture.text(20, 262, "CPU", 15, "start", font_weight="600")
    cells = (
        ("trainer: 1", "step, advantage, traces", RED),
        ("agent loop: 2 per node", "prompts, features", BLUE),
        ("reward: 2 per node", "scores of texts", RED),
        ("TransferQueue: 1 + 2 per node", "controller, storage", GREY),
        ("Ray: 1 cluster", "starts the others", GREY),
        ("verl-leaf train: 1", "watches, resumes, sums up", GREY),
    )
    for number, (name, what, colour) in enumerate(cells):
        x, y = 20 + 304 * (number % 2), 276 + 70 * (number // 2)
        picture.labelled(x, y, 296, (name, what), colour)
    picture.text(20, 506, "More nodes: the GPU row and “per node” once more; the trainer stays one.", 14, "start")
    return picture


def packing() -> Picture:
    """The responses to a prompt as rows of their own and as one packed row, with the mask of that row."""
    prompt, shared, tails = 5, 2, 3  # tokens
    responses = [[10, 11, 20, 21, 22], [10, 11, 30, 31, 32], [40, 41, 42, 43, 44]]
    packed = pack([np.array([*range(prompt), *response]) for response in responses], [prompt] * 3, ["clip"] * 3, 0)
    parts = [0] * prompt + [1] * shared + [2] * tails + [3] * tails + [4] * 5
    mask = packed.attention_mask("cpu")
    assert mask is not None, "the responses share a row"

    picture = Picture("Sharing prompts: three responses in one row", 560)
    colours = (GREY, GREEN, BLUE, RED, "#CC79A7")
    names = ("prompt", "A, B", "A", "B", "C")
    cell = 26

    def row(x: float, y: float, parts: list[tuple[int, int]]) -> None:
        for part, length in parts:
            picture.box(x, y, length * cell, 30, colours[part], 0.3)
            picture.text(x + length * cell / 2, y + 20, names[part], 13)
            x += length * cell

    picture.text(20, 28, "Without sharing: a row per response, 30 tokens", 15, "start", font_weight="600")
    row(20, 40, [(0, prompt), (1, shared), (2, tails)])
    row(20, 76, [(0, prompt), (1, shared), (3, tails)])
    row(20, 112, [(0, prompt), (4, 5)])
    picture.text(20, 176, "With share_prompts: one row, 18 tokens", 15, "start", font_weight="600")
    row(20, 188, [(0, prompt), (1, shared), (2, tails), (3, tails), (4, 5)])
    picture.text(20, 250, "Its mask: a token (row) sees the filled columns, which are its own response", 14, "start")
    size, left, top = 15, 80, 264
    for i in range(len(parts)):
        for j in range(i + 1):
            if mask[0, i, j]:
                picture.parts.append(
                    f'<rect x="{left + j * size}" y="{top + i * size}" width="{size - 1}" height="{size - 1}" '
                    f'fill="{colours[parts[i]]}" fill-opacity="{0.9 if parts[i] == parts[j] else 0.45}"/>'
                )
    for part, middle in enumerate((2.5, 6, 8.5, 11.5, 15.5)):
        picture.text(left - 8, top + middle * size + 5, names[part], 13, "end")
    return picture


# The entries of a run's folder by the time at which they are written: path, content, and what reads it.
ENTRIES = (
    (
        "before the first step",
        GREY,
        (
            ("command.json", "what was started", "resuming"),
            ("made_of.json", "digests of model, data and settings", "resuming"),
            ("hydra/.hydra/config.yaml", "verl's whole configuration", "export, curves"),
            ("validation.parquet", "the rows, if not all are used", "the run"),
            ("validation_swapped.parquet", "the same with other rows' audio", "the run"),
        ),
    ),
    (
        "while it trains",
        BLUE,
        (
            ("train.log", "what verl, Ray and vLLM print", "you, after a failure"),
            ("metrics/, tensorboard/", "the numbers of each step", "curves"),
            ("traces/step_000010.jsonl", "the trees of a step", "tree, forks"),
            ("validation/STEP.jsonl", "the answers of a validation", "the summary"),
            ("checkpoints/global_step_N/", "checkpoint and adapter/", "resuming, export, evaluate"),
            ("checkpoints/stop", "made by you: save a checkpoint, end", "the run"),
        ),
    ),
    (
        "when it ends",
        GREEN,
        (
            ("adapter/", "the last adapter, in PEFT's format", "PEFT, vLLM"),
            ("summary.json", "scores before and after, seconds", "you"),
            ("tree.html", "the page of the trees", "your browser"),
        ),
    ),
)


def run_folder() -> Picture:
    """The files of a run, by the time at which they are written, and what reads them."""
    picture = Picture("The files in a run's folder: when they are written, what they contain, what reads them", 566)
    mono = "ui-monospace, 'DejaVu Sans Mono', monospace"
    picture.text(20, 24, "runs/qwen2audio_leaf/001/", 14, "start", font_weight="600", font_family=mono)
    picture.text(620, 24, "read by", 14, "end", font_weight="600")
    y = 36
    for when, colour, entries in ENTRIES:
        picture.box(10, y, 620, 32 + 28 * len(entries), colour, 0.1)
        picture.text(20, y + 21, when, 14, "start", font_weight="600")
        for number, (path, content, reader) in enumerate(entries):
            line = y + 46 + 28 * number
            picture.text(20, line, path, 13, "start", font_family=mono)
            picture.text(240, line, content, 13, "start")
            picture.text(620, line, reader, 13, "end")
        y += 44 + 28 * len(entries)
    return picture


PICTURES = {"idea": idea, "step": step, "processes": processes, "run": run_folder, "packing": packing}


def main() -> None:
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
