"""Our classes and patches fit the source of vLLM 0.24.0, which the GPU stack has, and that of the installed vLLM alike.

tests/versions/vllm_0.24.0.json holds what tests/versions/vllm_api.py reads from 0.24.0. Write it anew when our code
begins to use something else of vLLM: what is missing then, 0.24.0 does not have.
"""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from tests.versions.vllm_api import Source, our_sources, our_uses
from verl_leaf.common import vllm_distribution


def api_of(version: str, uses) -> dict:
    if version == "0.24.0":
        return json.loads((Path(__file__).parent / "vllm_0.24.0.json").read_text())
    spec = importlib.util.find_spec("vllm") or pytest.skip("vLLM is not installed")
    return Source(Path(spec.origin).parents[1]).api(*uses)


def complaints(api: dict, names: dict, members: dict, _bases: dict) -> list[str]:
    found = [f"no {name}" for name in {**names, **members} if name not in api]
    for name in names.keys() & api.keys():
        for positional, keywords in names[name]:
            try:
                inspect.signature(eval(f"lambda {api[name]}: 0")).bind(*range(positional), **dict.fromkeys(keywords))
            except TypeError as error:
                found.append(f"{name}({api[name]}): {error}")
    for name, parameters in members.items():
        if api.get(name) not in (parameters, None, "read by the LoRA manager"):
            found.append(f"{name}({api[name]}): ours takes ({parameters})")
    return found


def our_uses_in(version: str):
    _, number = vllm_distribution.installed() if version == "installed" else ("vllm", version)
    return our_uses(*our_sources(number))


@pytest.mark.parametrize("version", ["0.24.0", "installed"])
def test_vllm_has_what_we_use(version):
    uses = our_uses_in(version)
    assert complaints(api_of(version, uses), *uses) == []


def test_both_give_the_class_that_we_extend_the_same_bases():
    uses = our_uses_in("0.24.0")
    bases = uses[2]
    gpu, installed = api_of("0.24.0", uses), api_of("installed", uses)
    assert bases and {name: gpu[name] for name in bases} == {name: installed[name] for name in bases}


IMPORT = "import vllm.model_executor.models.qwen2_audio as m\n"
MODEL = IMPORT + "class M(m.Qwen2AudioForConditionalGeneration):\n    "
MIXED = IMPORT + "class M(Mixin, m.Qwen2AudioForConditionalGeneration): pass\nclass Mixin:\n    "


@pytest.mark.parametrize("version", ["0.24.0", "installed"])
@pytest.mark.parametrize(
    "source, complaint",
    [
        ("from vllm.multimodal import MULTIMODAL_REGISTRY as m\nm.register_processor(1, factory=2)", "missing a requ"),
        (MODEL + "def compute_logits(self, hidden_states, sampling): pass", r"ours takes \(hidden_states, sampling\)"),
        (MODEL + "def f(self): return self.audio_encoder", "no .*Generation.audio_encoder"),
        (MODEL + "no_such_flag = True", "no .*Generation.no_such_flag"),
        (MODEL + "pass\nclass P(m.Qwen2AudioMultiModalProcessor):\n    info2 = 1", "no .*Processor.info2"),
        (
            MODEL + "def f(self): return self.info\nclass P(m.Qwen2AudioMultiModalProcessor): info = 1",
            "no .*Generation.info",
        ),
        (MIXED + "def compute_logits(self): pass", r"Generation.compute_logits\(hidden_states\): ours takes \(\)"),
        (MIXED + "def f(self): return self.audio_encoder", "no .*Generation.audio_encoder"),
    ],
)
def test_a_misfit_is_reported(version, source, complaint):
    uses = our_uses(source)
    with pytest.raises(AssertionError, match=complaint):
        assert complaints(api_of(version, uses), *uses) == []
