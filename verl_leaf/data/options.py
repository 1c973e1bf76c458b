"""The settings of verl's ``data`` that speech uses."""

from dataclasses import dataclass, fields

LONG_AUDIO = ("error", "cut", "skip")


@dataclass(frozen=True)
class Keys:
    """The names of columns, from verl's ``data`` configuration."""

    prompt: str = "prompt"
    audio: str = "audios"
    image: str = "images"
    video: str = "videos"

    @classmethod
    def of(cls, data_config) -> "Keys":
        """Return the names in ``data.prompt_key``, ``data.audio_key`` and so on.

        Raises:
            ValueError: a name is not a text, or ``data.reward_fn_key`` is set, which verl 0.9.1 never reads
                (verl/experimental/reward_loop/reward_manager/naive.py uses ``data_source``).
        """
        names = {field.name: data_config.get(f"{field.name}_key", field.default) for field in fields(cls)}
        for field, name in names.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"data.{field}_key={name}: set it to the name of a column")
        source = data_config.get("reward_fn_key", "data_source")
        if source != "data_source":
            raise ValueError(
                f"data.reward_fn_key={source}: verl's reward managers always read the column data_source. Name the column "
                "data_source, and do not set data.reward_fn_key"
            )
        return cls(**names)


DEFAULT_KEYS = Keys()


def long_audio(data_config) -> str:
    """Return ``data.long_audio``, which says what to do with a clip that is longer than the model's window.

    ``error``, the default, stops before training; ``cut`` uses the beginning of the clip; ``skip`` leaves the row out.
    """
    value = data_config.get("long_audio", "error")
    if value not in LONG_AUDIO:
        raise ValueError(f"data.long_audio={value} is not valid. Valid values are {', '.join(LONG_AUDIO)}")
    return value


def check_options(data_config) -> None:
    """Raise ValueError if a setting of ``data`` is not supported for speech."""
    Keys.of(data_config)
    long_audio(data_config)
    if data_config.get("mm_processor_kwargs"):
        raise ValueError(
            f"data.mm_processor_kwargs={data_config.mm_processor_kwargs}: options for the processor of a speech model are not "
            "supported. Remove the setting"
        )
