"""What our code overrides of verl's classes: where verl calls something else, ours would be left out without a word.

    python -m tests.versions.verl_api > tests/versions/verl_0.9.1.json

in an environment with verl 0.9.1 writes what the tests and `follow_verl.sh` hold other versions against.
"""

import importlib
import inspect
import json
from pathlib import Path

# Ours, and the class of verl that it extends.
EXTENDED = {
    "verl_leaf.plugin.cpu_platform:PlatformCPU": "verl.plugin.platform:PlatformBase",
    "verl_leaf.training.sharing.engine:SharingEngine": "verl.workers.engine.fsdp.transformer_impl:FSDPEngineWithLMHead",
    "verl_leaf.speech.agent_loop:SpeechAgentLoop": "verl.experimental.agent_loop.tool_agent_loop:ToolAgentLoop",
    "verl_leaf.speech.agent_loop:SpeechAgentLoopWorker": "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ",
    "verl_leaf.speech.agent_loop:SpeechAgentLoopManager": "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ",
    "verl_leaf.speech.dataset:SpeechDataset": "verl.utils.dataset.rl_dataset:RLHFDataset",
    "verl_leaf.speech.tools:AudioTool": "verl.tools.base_tool:BaseTool",
}
RECORD = Path(__file__).with_name("verl_0.9.1.json")


def overridden(ours: str) -> dict[str, str]:
    """Return the functions of verl that one of our classes overrides, with their parameters in the installed verl."""
    base = _load(EXTENDED[ours])
    base = base.__ray_metadata__.modified_class if hasattr(base, "__ray_metadata__") else base
    found = {}
    for name, value in vars(_load(ours)).items():
        theirs = getattr(base, name, None)
        if inspect.isfunction(value) and inspect.isfunction(theirs):
            found[name] = ", ".join(each for each in inspect.signature(theirs).parameters if each != "_ray_trace_ctx")
    return dict(sorted(found.items()))


def complaints(ours: str) -> list[str]:
    """Return which functions that one of our classes overrides verl no longer has, or has changed."""
    recorded, found = json.loads(RECORD.read_text())[ours], overridden(ours)
    return [
        f"{EXTENDED[ours]}.{name}: was ({parameters}), is " + (f"({found[name]})" if name in found else "gone")
        for name, parameters in recorded.items()
        if found.get(name) != parameters
    ]


def _load(name: str):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    print(json.dumps({ours: overridden(ours) for ours in EXTENDED}, indent=1))
