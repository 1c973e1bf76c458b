"""The supported families of speech models. The rest of the package uses a family's declaration and never its name."""

from verl_leaf.models.audioflamingo3 import AUDIO_FLAMINGO_3
from verl_leaf.models.family import Family
from verl_leaf.models.granite_speech import GRANITE_SPEECH
from verl_leaf.models.qwen2_5_omni import QWEN2_5_OMNI
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
from verl_leaf.models.qwen3_omni_moe import QWEN3_OMNI_MOE

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (QWEN2_AUDIO, GRANITE_SPEECH, AUDIO_FLAMINGO_3, QWEN2_5_OMNI, QWEN3_OMNI_MOE)
}
PROCESSORS = {family.processor_class: family for family in FAMILIES.values()}


def family_of_processor(processor) -> Family:
    """Return the family of a Hugging Face processor; raise ValueError if it does not belong to a supported speech model."""
    name = type(processor).__name__
    if name not in PROCESSORS:
        raise ValueError(f"{name} is not the processor of a supported speech model: {', '.join(PROCESSORS)}")
    return PROCESSORS[name]
