import datasets
import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from verl_leaf.models import FAMILIES, family_of_processor
from verl_leaf.speech.agent_loop import _collapse_runs
from verl_leaf.speech.dataset import SpeechDataset, render_prompt
from verl_leaf.speech.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.speech.swap import write_swapped

CONFIG = OmegaConf.create({"max_prompt_length": 160})


@pytest.fixture
def rows(tmp_path):
    """Three good rows with clips of different length beside the parquet file that `build` writes."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(16000 + 800 * number, np.float32), 16000)
    return [
        {
            "data_source": "test",
            "prompt": [{"role": "user", "content": "<audio>Translate into German."}],
            "audios": [f"{number}.wav"],
            "reward_model": {"style": "rule", "ground_truth": f"Antwort {number}"},
            "extra_info": {"index": number},
        }
        for number in range(3)
    ]


@pytest.fixture
def build(tmp_path, processor):
    def build(rows, **config):
        file = tmp_path / "rows.parquet"
        datasets.Dataset.from_list(rows).to_parquet(str(file))
        return SpeechDataset(str(file), processor.tokenizer, OmegaConf.merge(CONFIG, config), processor)

    return build


def test_rows_come_with_messages_that_lead_to_the_audio(build, rows, processor):
    dataset = build(rows)
    assert len(dataset) == 3
    item = dataset[2]
    text, clips, is_long = render_prompt(processor, item["raw_prompt"], CONFIG)
    assert [len(clip) for clip in clips] == [17600] and not is_long
    assert text.count(processor.audio_token) == 1 and "Translate into German." in text
    assert item["reward_model"]["ground_truth"] == "Antwort 2"


def test_max_samples(build, rows, processor, tmp_path):
    build(rows)
    dataset = SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, CONFIG, processor, max_samples=2)
    assert len(dataset) == 2


@pytest.mark.parametrize("column", ["data_source", "prompt", "audios", "reward_model"])
def test_missing_column(build, rows, column):
    for row in rows:
        del row[column]
    with pytest.raises(ValueError, match=f"rows.parquet: no column '{column}'"):
        build(rows)


def spoil(row, tmp_path, how):
    if how == "missing":
        row["audios"] = ["gone.wav"]
    elif how == "unreadable":
        (tmp_path / "text.wav").write_text("no audio")
        row["audios"] = ["text.wav"]
    elif how == "placeholders":
        row["prompt"] = [{"role": "user", "content": "<audio><audio>Translate."}]
    elif how == "special token":
        row["prompt"] = [{"role": "user", "content": "<audio>Say <|AUDIO|>."}]
    elif how == "long prompt":
        row["prompt"] = [{"role": "user", "content": "<audio>" + "word " * 200}]
    elif how == "long audio":
        soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 31, np.float32), 16000)
        row["audios"] = ["long.wav"]
    elif how == "short audio":
        soundfile.write(tmp_path / "short.wav", np.zeros(800, np.float32), 16000)
        row["audios"] = ["short.wav"]
    elif how == "no reference":
        row["reward_model"]["ground_truth"] = None


@pytest.mark.parametrize(
    "how, reason",
    [
        ("missing", "gone.wav: no such file"),
        ("unreadable", "text.wav: cannot be read as audio"),
        ("placeholders", "2 <audio> placeholder.* 1 audio"),
        ("special token", "2 audio placeholder.*1 audio clip"),
        ("long prompt", r"the prompt has \d+ tokens, data.max_prompt_length is 160"),
        (
            "long audio",
            r"long.wav: lasts more than the 30 s that qwen2_audio hears: .* set \+data.long_audio=cut or skip",
        ),
        ("short audio", r"short.wav: lasts 0.050 s and would become 1 audio token"),
        ("no reference", "no ground_truth"),
    ],
)
def test_bad_row_is_named(build, rows, tmp_path, how, reason):
    spoil(rows[1], tmp_path, how)
    with pytest.raises(ValueError, match=f"rows.parquet, row 1: .*{reason}"):
        build(rows)


@pytest.fixture
def with_long_audio(rows, tmp_path):
    spoil(rows[1], tmp_path, "long audio")
    return rows


@pytest.mark.parametrize("policy, left", [("cut", 3), ("skip", 2)])
def test_audio_longer_than_the_window(build, with_long_audio, processor, caplog, policy, left):
    config = OmegaConf.merge(CONFIG, {"long_audio": policy, "max_prompt_length": 800})
    dataset = build(with_long_audio, **config)
    assert len(dataset) == left
    assert f"1 of 3 rows have audio that is too long for the model; data.long_audio={policy}" in caplog.text
    seconds = [len(render_prompt(processor, item["raw_prompt"], config)[1][0]) / 16000 for item in dataset]
    assert seconds == ([1.0, 30.0, 1.1] if policy == "cut" else [1.0, 1.1])


def test_a_policy_that_leaves_no_row_and_one_that_does_not_exist(build, with_long_audio):
    with pytest.raises(ValueError, match="rows.parquet: no row is left"):
        build(with_long_audio[1:2], long_audio="skip")
    with pytest.raises(ValueError, match="data.long_audio=drop: valid are error, cut, skip"):
        build(with_long_audio, long_audio="drop")


def test_audio_columns_of_the_hub_are_read_here(build, rows, tmp_path, processor):
    """`datasets` marks such a column, and decodes it with another library where it is not told not to."""
    file = tmp_path / "hub.parquet"
    for row in rows:
        row["audios"] = [{"bytes": (tmp_path / row["audios"][0]).read_bytes(), "path": None}]
    rows = datasets.Dataset.from_list(rows).cast_column("audios", datasets.List(datasets.Audio(decode=False)))
    rows.cast_column("audios", datasets.List(datasets.Audio())).to_parquet(str(file))
    dataset = SpeechDataset(str(file), processor.tokenizer, CONFIG, processor)
    assert len(render_prompt(processor, dataset[2]["raw_prompt"], CONFIG)[1][0]) == 17600


def test_prompt_length_is_what_the_processor_makes(processor):
    """The formula for audio tokens against the processor itself, around every rounding."""
    family = family_of_processor(processor)
    text = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nTranslate"
    for samples in [*range(1000, 3000, 77), 15999, 16000, 16001, 16159, 16160, 16161, 479999, 480000]:
        ids, features = family.encode(processor, text, [np.zeros(samples, np.float32)])
        assert family.prompt_length(processor, text, [samples]) == len(ids)
        assert features["input_features"].shape == (1, 32, 3000)


def test_collapsed_prompt_has_one_placeholder_a_clip(processor):
    family = FAMILIES["qwen2_audio"]
    text = "<|audio_bos|><|AUDIO|><|audio_eos|> and <|audio_bos|><|AUDIO|><|audio_eos|> compare"
    ids, _ = family.encode(processor, text, [np.zeros(16000, np.float32), np.zeros(8000, np.float32)])
    collapsed = _collapse_runs(ids, processor.audio_token_id)
    assert collapsed == processor.tokenizer(text)["input_ids"]
    assert ids.count(processor.audio_token_id) == 25 + 12


def test_swapped_rows_have_the_audio_of_others(build, rows, tmp_path):
    build(rows)
    swapped = datasets.Dataset.from_parquet(str(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet")))
    originals = [str(tmp_path / row["audios"][0]) for row in rows]
    assert sorted(row["audios"][0] for row in swapped) == originals
    assert all(row["audios"][0] != original for row, original in zip(swapped, originals, strict=True))
    assert {row["data_source"] for row in swapped} == {"test" + SWAPPED_AUDIO_SUFFIX}
    assert [row["reward_model"]["ground_truth"] for row in swapped] == ["Antwort 0", "Antwort 1", "Antwort 2"]
