"""A training that continues where an interrupted one stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from verl_leaf.common.files import whole_file

WARMUP = 30
SAVE_EVERY = 10


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    cpu_seconds: float = 0.0


class Training:
    """Some parameters, their optimizer, and the file of its state.

    Args:
        name: name of the training in printed lines.
        path: file of the state; if it exists, the parameters get the values in it.
        groups: pairs of parameters by name and their learning rate.
    """

    def __init__(self, name: str, path: Path, groups: list[tuple[dict[str, torch.nn.Parameter], float]]) -> None:
        self._name, self._path = name, path
        self.weights = {name: weight for weights, _ in groups for name, weight in weights.items()}
        self._rates = [rate for _, rate in groups]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(weights.values())} for weights, _ in groups], weight_decay=0.0
        )
        self.progress = Progress()
        if path.exists():
            state = torch.load(path)
            self.progress = Progress(**state["progress"])
            self._optimizer.load_state_dict(state["optimizer"])
            with torch.no_grad():
                for weight, values in zip(self.weights.values(), state["weights"], strict=True):
                    weight.copy_(values)

    def run(self, steps: int, loss: Callable[[int], torch.Tensor], check: Callable[[], str], check_every: int) -> None:
        """Train up to ``steps`` batches.

        The learning rates rise for ``WARMUP`` steps and fall linearly to a twentieth at the end.

        Args:
            steps: number of steps of the whole training.
            loss: function that returns the loss of a step.
            check: function that describes how good the parameters are; it is called every ``check_every`` steps and at
                the end.
            check_every: a multiple of ``SAVE_EVERY``.
        """
        losses, progress = [], self.progress
        while progress.step < steps:
            began = time.process_time()
            share = min((progress.step + 1) / WARMUP, max(0.05, 1 - progress.step / steps))
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = share * rate
            value = loss(progress.step)
            self._optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
            self._optimizer.step()
            losses.append(value.item())
            progress.step += 1
            progress.cpu_seconds += time.process_time() - began
            end = progress.step == steps
            if progress.step % SAVE_EVERY == 0 or end:
                self._save()
                recent = losses[-SAVE_EVERY:]
                found = check() if progress.step % check_every == 0 or end else ""
                print(
                    f"{self._name}: step {progress.step}, loss {sum(recent) / len(recent):.3f}, "
                    f"{progress.cpu_seconds:.0f} CPU s{found}",
                    flush=True,
                )

    def _save(self) -> None:
        with whole_file(self._path) as partial:
            torch.save(
                {
                    "progress": vars(self.progress),
                    "optimizer": self._optimizer.state_dict(),
                    "weights": [weight.detach() for weight in self.weights.values()],
                },
                partial,
            )
