"""The writer of the trees of training steps: ``algorithm.leaf.trace_dir``, one file every ``trace_every`` steps.

:mod:`verl_leaf.training.traces.schema` defines the format of a file.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tokenizers.decoders import DecodeStream

from verl_leaf.algorithm import LeafAdvantages
from verl_leaf.algorithm.estimators import LeafOptions, Rollouts
from verl_leaf.data.references import contents
from verl_leaf.training.traces.schema import Boundary, Head, Node, Prompt, Response, Span, file_name

FIELDS = ["prompts", "raw_prompt", "data_source", "reward_model"]  # columns of the trainer's batch that a trace needs

logger = logging.getLogger("verl.leaf")  # verl's handler serves only loggers below "verl"


class TraceWriter:
    """A writer of traces that neither delays the training nor makes it fail: the first error becomes a warning."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leaf-trace")
        self._pending: Future | None = None
        self._warned = False

    def write(
        self,
        options: LeafOptions,
        step: int,
        rollouts: Rollouts,
        leaf: LeafAdvantages,
        fetch: Callable[[], Mapping[str, list]],
        tokenizer,
        append: bool = False,
    ) -> None:
        """Write a step's trees if the step is to be traced.

        Args:
            options: options with ``trace_dir`` and ``trace_every``.
            fetch: function that returns :data:`FIELDS` of the batch's rows, each a list; called only if the step is traced.
            append: True to add to the step's file.
        """
        if options.trace_dir is None or step % options.trace_every:
            return None
        try:
            if self._pending is not None and not self._pending.done():
                return self._warn(f"step {step} is left out, because an earlier step is still being written")
            rows = fetch()
            self._pending = self._thread.submit(self._write, options, step, rollouts, leaf, rows, tokenizer, append)
        except Exception as error:
            self._warn(f"step {step}: {error!r}")

    def _write(self, options, step, rollouts, leaf, rows, tokenizer, append) -> None:
        try:
            folder = Path(options.trace_dir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / file_name(step)
            append = append and file.exists()  # the file may have been left out
            head = Head(step=step, fork_budget=options.fork_budget, credit=options.credit)
            lines = [*([] if append else [head]), *prompts_of(rollouts, leaf, rows, tokenizer, folder)]
            with open(file, "a" if append else "w", encoding="utf-8") as opened:
                opened.write("".join(line.model_dump_json() + "\n" for line in lines))
        except Exception as error:
            self._warn(f"step {step}: {error!r}")

    def _warn(self, message: str) -> None:
        if not self._warned:
            logger.warning(
                f"algorithm.leaf.trace_dir: {message}. Training continues. Further problems are not reported."
            )
        self._warned = True


def prompts_of(
    rollouts: Rollouts, leaf: LeafAdvantages, rows: Mapping[str, list], tokenizer, folder: Path
) -> list[Prompt]:
    """Return the lines of a trace: one per prompt with responses that the policy wrote, in the batch's order.

    Args:
        rows: :data:`FIELDS` of the batch, each with one entry per row.
        folder: folder of the traces; encoded audio in the data is written to ``folder/audio``.
    """
    tree = leaf.tree
    members: dict[int, list[int]] = {}
    for row, (group, length) in enumerate(zip(tree.group.tolist(), tree.lengths.tolist(), strict=True)):
        if length:
            members.setdefault(group, []).append(row)
    return [
        _prompt(rollouts, leaf, of_group, rows, tokenizer, folder)
        for of_group in members.values()
        if rollouts.mask[of_group].any()  # the trainer pads batches with rows that the policy did not write
    ]


def _prompt(
    rollouts: Rollouts, leaf: LeafAdvantages, members: list[int], rows: Mapping[str, list], tokenizer, folder: Path
) -> Prompt:
    """Return the line of a group; ``members`` are its rows in the batch."""
    tree, spans = leaf.tree, leaf.spans
    first = members[0]
    group = tree.group[first]
    nodes = _nodes(leaf, members)
    paths = [[number for number, node in enumerate(nodes) if k in node.responses] for k in range(len(members))]
    return Prompt(
        prompt=tokenizer.decode(rows["prompts"][first], skip_special_tokens=True),
        data_source=rows["data_source"][first],
        reference=(rows["reward_model"][first] or {}).get("ground_truth"),
        audio=audio_of(rows["raw_prompt"][first], folder),
        root_value=spans.root_value[group].item(),
        boundaries=[
            Boundary(position=position, response=members.index(row))
            for position, row in zip(tree.boundaries[group].tolist(), tree.boundary_row[group].tolist(), strict=True)
            if row >= 0
        ],
        nodes=nodes,
        responses=[_response(rollouts, leaf, row, path, tokenizer) for row, path in zip(members, paths, strict=True)],
    )


def _nodes(leaf: LeafAdvantages, members: list[int]) -> list[Node]:
    tree, spans = leaf.tree, leaf.spans
    nodes = []
    for boundary, column in enumerate(tree.node[members].unbind(1)):
        names = column.tolist()  # a node is named by the first of its rows
        for name in dict.fromkeys(name for name in names if name >= 0):
            responses = [k for k, other in enumerate(names) if other == name]
            nodes.append(Node(boundary=boundary, responses=responses, value=spans.node_value[name, boundary].item()))
    return nodes


def _response(rollouts: Rollouts, leaf: LeafAdvantages, row: int, path: list[int], tokenizer) -> Response:
    """Return a row of the batch as a response; ``path`` are its nodes, at which its spans end, except the tail."""
    spans = leaf.spans
    T = int(leaf.tree.lengths[row])
    tokens = rollouts.tokens[row, :T].tolist()
    assert rollouts.surprisal is not None
    surprisal = rollouts.surprisal[row, :T].double().tolist()
    return Response(
        reward=rollouts.rewards[row].item(),
        tokens=tokens,
        pieces=pieces(tokenizer, tokens),
        surprisal=[round(nats, 6) if math.isfinite(nats) else None for nats in surprisal],
        policy=rollouts.mask[row, :T].long().tolist(),
        spans=[
            Span(
                start=min(int(spans.start[row, slot]), T),
                end=min(int(spans.end[row, slot]), T),
                node=path[slot] if slot < len(path) else None,
                credit=spans.raw[row, slot].item(),
                advantage=spans.normalised[row, slot].item(),
            )
            for slot in spans.valid[row].nonzero().flatten().tolist()
        ],
    )


def pieces(tokenizer, tokens: list[int]) -> list[str]:
    """Return the text of each token, so that they join to the whole text; a special token gives its name."""
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in tokens]


def audio_of(messages, folder: Path) -> list[str | None]:
    """Return the path of every audio in chat messages; encoded bytes are written to a file below ``folder``."""
    return [
        _audio_path(part.get("audio"), folder)
        for message in messages
        if isinstance(message["content"], list | tuple)
        for part in message["content"]
        if part["type"] == "audio"
    ]


def _audio_path(reference, folder: Path) -> str | None:
    data, path = contents(reference)
    if data is None:
        return path
    file = folder / "audio" / hashlib.sha256(data).hexdigest()[:16]
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    return f"audio/{file.name}"
