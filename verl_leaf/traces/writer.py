"""The trees of a training step on disk: ``algorithm.leaf.trace_dir``, one file every ``trace_every`` steps.

``step_000010.jsonl`` begins with a line about the step::

    {"format": "leaf-trace", "version": 1, "step": 10, "fork_budget": 2, "credit": "both"}

followed by a line for each prompt::

    {"prompt": "what the model read, special tokens left out",
     "data_source": "...", "reference": ...,
     "audio": ["path of each clip; audio/... in this folder where the data holds a file's bytes, null where samples"],
     "root_value": V0,
     "boundaries": [{"position": p, "response": the index in `responses` whose surprisal put it there}],
     "nodes": [{"boundary": index in `boundaries`, "responses": [indices], "value": V(v)}],
     "responses": [{"reward": r,
                    "tokens": [ids], "pieces": [text], "surprisal": [nats], "policy": [0 or 1],
                    "spans": [{"start": first token, "end": the token after the last, "node": index in `nodes` that the
                               span ends at, null for the tail, "credit": A, "advantage": the z-score of A}]}]}

The pieces of a response join to its text; a character that several tokens make up stands with the last of them.
``surprisal`` is null where it is infinite. ``policy`` is 0 for tokens the policy did not write (a tool's reply), which
have the advantage 0; every other token has that of its span.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from verl_leaf.estimator import LeafOptions, LeafStep

VERSION = 1
FIELDS = ["prompts", "raw_prompt", "data_source", "reward_model"]  # what a trace takes from the trainer's batch

logger = logging.getLogger("verl.leaf")  # veRL gives its handler to the loggers below its own name only


class TraceWriter:
    """Writes traces beside the training, which it never fails and never waits for: what goes wrong is one warning."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leaf-trace")
        self._pending: Future | None = None
        self._warned = False

    def write(
        self,
        options: LeafOptions,
        step: int,
        leaf_step: LeafStep,
        fetch: Callable[[], Mapping[str, list]],
        tokenizer,
        append: bool = False,
    ) -> None:
        """Write a step's trees, if its turn has come.

        Args:
            options: ``trace_dir`` and ``trace_every`` say where and when.
            step: number of the training step.
            leaf_step: what the estimator computed.
            fetch: gives :data:`FIELDS` of the batch's rows, each a list; called only if the step's turn has come.
            tokenizer: Hugging Face tokenizer of the policy.
            append: add to what the step has written already.
        """
        if options.trace_dir is None or step % options.trace_every:
            return
        try:
            if self._pending is not None and not self._pending.done():
                return self._warn(f"step {step} is left out: the step before is still being written")
            rows = fetch()
            self._pending = self._thread.submit(self._write, options, step, leaf_step, rows, tokenizer, append)
        except Exception as error:
            self._warn(f"step {step}: {error!r}")

    def _write(self, options, step, leaf_step, rows, tokenizer, append) -> None:
        try:
            folder = Path(options.trace_dir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            head = {
                "format": "leaf-trace",
                "version": VERSION,
                "step": step,
                "fork_budget": options.fork_budget,
                "credit": options.credit,
            }
            lines = ([] if append else [head]) + prompts_of(leaf_step, rows, tokenizer, folder)
            with open(folder / f"step_{step:06d}.jsonl", "a" if append else "w", encoding="utf-8") as file:
                file.write("".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
        except Exception as error:
            self._warn(f"step {step}: {error!r}")

    def _warn(self, message: str) -> None:
        if not self._warned:
            logger.warning(f"algorithm.leaf.trace_dir: {message}. Training goes on; this is said once.")
        self._warned = True


def prompts_of(leaf_step: LeafStep, rows: Mapping[str, list], tokenizer, folder: Path) -> list[dict]:
    """The lines of a trace: a dictionary for each prompt whose responses the policy wrote, in the batch's order.

    Encoded audio that the data holds is written to ``folder/audio``.
    """
    tree, credited = leaf_step.result.tree, leaf_step.result.spans
    lengths, policy = tree.lengths.tolist(), leaf_step.mask.long().tolist()
    tokens, surprisal = leaf_step.responses.tolist(), (-leaf_step.log_probs.double()).tolist()
    boundaries, boundary_row = tree.boundaries.tolist(), tree.boundary_row.tolist()
    node, node_value, root_value = tree.node.tolist(), credited.node_value.tolist(), credited.root_value.tolist()
    spans = [tensor.tolist() for tensor in (credited.valid, credited.start, credited.end, credited.raw, credited.normalised)]
    rewards = leaf_step.rewards.double().tolist()

    members: dict[int, list[int]] = {}
    for row, group in enumerate(tree.group.tolist()):
        if lengths[row]:  # the trainer pads batches with empty rows
            members.setdefault(group, []).append(row)

    prompts = []
    for group, own in members.items():
        positions = [p for p in boundaries[group] if p < tree.num_tokens]
        index = {row: number for number, row in enumerate(own)}
        nodes: dict[tuple[int, int], int] = {}  # (boundary, first row) -> number
        lines = []
        for b in range(len(positions)):
            for row in own:
                if node[row][b] >= 0 and (b, node[row][b]) not in nodes:
                    nodes[b, node[row][b]] = len(nodes)
                    same = [index[other] for other in own if node[other][b] == node[row][b]]
                    lines.append({"boundary": b, "responses": same, "value": node_value[row][b]})
        responses = []
        for row in own:
            count = lengths[row]
            ends = [nodes[b, node[row][b]] for b in range(len(positions)) if node[row][b] >= 0]
            responses.append(
                {
                    "reward": rewards[row],
                    "tokens": tokens[row][:count],
                    "pieces": pieces(tokenizer, tokens[row][:count]),
                    "surprisal": [round(s, 6) if math.isfinite(s) else None for s in surprisal[row][:count]],
                    "policy": policy[row][:count],
                    "spans": [
                        {
                            "start": min(start, count),
                            "end": min(end, count),
                            "node": ends[slot] if slot < len(ends) else None,
                            "credit": raw,
                            "advantage": normalised,
                        }
                        for slot, (valid, start, end, raw, normalised) in enumerate(
                            zip(*(column[row] for column in spans), strict=True)
                        )
                        if valid
                    ],
                }
            )
        first = own[0]
        prompts.append(
            {
                "prompt": tokenizer.decode(rows["prompts"][first], skip_special_tokens=True),
                "data_source": rows["data_source"][first],
                "reference": (rows["reward_model"][first] or {}).get("ground_truth"),
                "audio": audio_of(rows["raw_prompt"][first], folder),
                "root_value": root_value[group],
                "boundaries": [
                    {"position": p, "response": index[row]}
                    for p, row in zip(positions, boundary_row[group], strict=False)
                ],
                "nodes": lines,
                "responses": responses,
            }
        )
    return prompts


def pieces(tokenizer, tokens: list[int]) -> list[str]:
    """The text of each token, so that they join to the text of all; a special token is its own name."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in tokens]


def audio_of(messages, folder: Path) -> list[str | None]:
    """Where every audio in chat messages can be found: a path, which for encoded bytes is a file below ``folder``."""
    return [
        _audio_path(part.get("audio"), folder)
        for message in messages
        if isinstance(message["content"], list | tuple)
        for part in message["content"]
        if part["type"] == "audio"
    ]


def _audio_path(reference, folder: Path) -> str | None:
    path, data = reference, None
    if isinstance(reference, dict):
        path, data = reference.get("path"), reference.get("bytes")
    elif isinstance(reference, bytes):
        data = reference
    if data is not None:
        file = folder / "audio" / hashlib.sha256(data).hexdigest()[:16]
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
        return f"audio/{file.name}"
    return os.fspath(path) if isinstance(path, str | os.PathLike) else None
