"""The settings of verl's ``data`` that speech follows."""

from dataclasses import dataclass, fields

LONG_AUDIO = ("error", "cut", "skip")


@dataclass(frozen=True)
class Keys:
    """Names of columns, as verl's ``data`` configuration gives them."""

    prompt: str = "prompt"
    audio: str = "audios"
    image: str = "images"
    video: str = "videos"

    @classmethod
    def of(cls, data_config) -> "Keys":
        """Read ``data.prompt_key``, ``data.audio_key`` and so on.

        Raises:
            ValueError: one is no name, or ``data.reward_fn_key`` is set, which verl 0.9.1 reads nowhere
                (verl/experimental/reward_loop/reward_manager/naive.py takes ``data_source``).
        """
        names = {field.name: data_config.get(f"{field.name}_key", field.default) for field in fields(cls)}
        for field, name in names.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"data.{field}_key={name}: must be the name of a column")
        source = data_config.get("reward_fn_key", "data_source")
        if source != "data_source":
            raise ValueError(
                f"data.reward_fn_key={source}: verl's reward managers read the column data_source whatever it says: "
                "name the column data_source, and leave data.reward_fn_key as it is"
            )
        return cls(**names)


DEFAULT_KEYS = Keys()


def long_audio(data_config) -> str:
    """Return ``data.long_audio``: what becomes of a clip that is longer than the model's window.

    ``error`` stops before training and is the default, ``cut`` takes the beginning, ``skip`` leaves the row out.
    """
    value = data_config.get("long_audio", "error")
    if value not in LONG_AUDIO:
        raise ValueError(f"data.long_audio={value}: valid are {', '.join(LONG_AUDIO)}")
    return value


def check_options(data_config) -> None:
    """Raise ValueError if ``data`` has a setting that cannot be followed for speech."""
    Keys.of(data_config)
    long_audio(data_config)
    if data_config.get("mm_processor_kwargs"):
        raise ValueError(
            f"data.mm_processor_kwargs={data_config.mm_processor_kwargs}: speech models here are given audio in one way "
            "only: leave it empty"
        )
