"""The model families that the speech path trains. The rest of the package asks a family's declaration, never its name."""

from verl_leaf.models.audioflamingo3 import AUDIO_FLAMINGO_3
from verl_leaf.models.family import Family
from verl_leaf.models.granite_speech import GRANITE_SPEECH
from verl_leaf.models.qwen2_5_omni import QWEN2_5_OMNI
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (QWEN2_AUDIO, GRANITE_SPEECH, AUDIO_FLAMINGO_3, QWEN2_5_OMNI)
}


def family_of_processor(processor) -> Family:
    """The family that a loaded Hugging Face processor belongs to.

    Raises:
        ValueError: no supported family uses such a processor.
    """
    for family in FAMILIES.values():
        if type(processor).__name__ == family.processor_class:
            return family
    raise ValueError(
        f"{type(processor).__name__} is not the processor of a supported speech model. Supported: "
        + ", ".join(f"{family.processor_class} ({family.model_type})" for family in FAMILIES.values())
    )
