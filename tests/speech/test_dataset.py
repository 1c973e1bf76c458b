import decimal
import os
import re

import datasets
import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from transformers import AutoProcessor
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

from tests.helpers import PROJECT
from verl_leaf.common.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.data.options import Keys
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import reference_texts, spoken_row
from verl_leaf.models import FAMILIES, family_of_processor
from verl_leaf.runs.swap import write_first_rows, write_rows, write_swapped
from verl_leaf.speech.agent_loop import _collapse_runs
from verl_leaf.speech.dataset import SpeechDataset, render_prompt

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
    found = build(rows)
    assert len(found) == 3
    item = found[2]
    text, clips, is_long = render_prompt(processor, item["raw_prompt"], CONFIG)
    assert [len(clip) for clip in clips] == [17600] and not is_long
    assert text.count(processor.audio_token) == 1 and "Translate into German." in text
    assert item["reward_model"]["ground_truth"] == "Antwort 2"


def test_max_samples(build, rows, processor, tmp_path):
    build(rows)
    dataset = SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, CONFIG, processor, max_samples=2)
    assert len(dataset) == 2


@pytest.fixture
def kept(build, rows, monkeypatch, tmp_path):
    """`build` with checked rows that are kept, and its settings."""
    monkeypatch.setattr("verl_leaf.speech.dataset.WORTH_KEEPING", -1.0)
    return {"cache_dir": str(tmp_path / "cache"), "filter_overlong_prompts": True}


def test_rows_that_were_checked_are_used_without_their_audio(build, rows, kept, tmp_path, caplog):
    rows[1]["prompt"][0]["content"] += "word " * 200
    before = build(rows, **kept)
    said = [message for message in caplog.messages if "1 of 3 rows have a prompt of more" in message]
    caplog.clear()
    for number in range(3):
        (tmp_path / f"{number}.wav").unlink()
    status = os.stat(tmp_path / "rows.parquet")
    again = SpeechDataset(str(tmp_path / "rows.parquet"), before.tokenizer, before.config, before.processor)
    assert [dict(again.dataframe[n]) for n in range(2)] == [before.dataframe[n] for n in range(2)] and len(again) == 2
    assert caplog.messages[:1] == said and "no audio is read now" in caplog.messages[-1]
    one = SpeechDataset(
        str(tmp_path / "rows.parquet"), before.tokenizer, before.config, before.processor, max_samples=-1
    )
    assert len(one) == 2
    for change in {"max_prompt_length": 150}, {"long_audio": "cut"}:
        changed = OmegaConf.merge(before.config, change)
        with pytest.raises(ValueError, match="0.wav: no such file"):
            SpeechDataset(str(tmp_path / "rows.parquet"), before.tokenizer, changed, before.processor)
    os.utime(tmp_path / "rows.parquet", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="0.wav: no such file"):
        SpeechDataset(str(tmp_path / "rows.parquet"), before.tokenizer, before.config, before.processor)


def test_other_settings_take_the_place_of_kept_rows(build, rows, kept, tmp_path):
    build(rows, **kept)
    build(rows, **kept, max_prompt_length=150)
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".npz", ".rows"]


def test_kept_rows_that_are_damaged_are_checked_again(build, rows, kept, tmp_path):
    build(rows, **kept)
    (stored,) = (tmp_path / "cache").glob("*.rows")
    os.truncate(stored, 10)
    assert len(build(rows, **kept)) == 3


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_missing_column(build, rows, column):
    for row in rows:
        del row[column]
    with pytest.raises(ValueError, match=f"rows.parquet: there is no column '{column}'"):
        build(rows)


def test_no_column_for_the_audio_of_placeholders(build, rows):
    for row in rows:
        del row["audios"]
    with pytest.raises(
        ValueError, match="rows.parquet, row 0: .*because there is no column 'audios', which data.audio_key"
    ):
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
        ("unreadable", "text.wav: it cannot be read as audio"),
        ("placeholders", "2 <audio> placeholder.* 1 audio"),
        ("special token", "message 0 of the prompt contains '<.AUDIO.>', which the model does not read as text"),
        ("long prompt", r"the prompt has \d+ tokens, but data.max_prompt_length is 160"),
        (
            "long audio",
            r"long.wav: the audio is longer than the 30 s that qwen2_audio supports. .* set data.long_audio=cut or skip",
        ),
        ("short audio", r"short.wav: the audio lasts 0.050 s and would become 1 audio token"),
        ("no reference", "no ground_truth"),
    ],
)
def test_bad_row_is_named(build, rows, tmp_path, how, reason):
    spoil(rows[1], tmp_path, how)
    with pytest.raises(ValueError, match=f"rows.parquet, row 1: .*{reason}"):
        build(rows)


MESSAGE = {"role": "user", "content": "<audio>Translate into German."}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"audios": None}, r"1 <audio> placeholder\(s\), but the row has 0 audio"),
        ({"audios": "1.wav"}, "'audios' is '1.wav'. It must be a list"),
        ({"audios": [None]}, "None is not an audio reference"),
        ({"prompt": "<audio>Translate."}, "'prompt' is '<audio>Translate.'. It must be a list of messages"),
        ({"prompt": None}, "'prompt' is None. It must be a list of messages"),
        ({"prompt": []}, "'prompt' is .*. It must be a list of messages"),
        ({"prompt": [{"role": "user", "content": None}]}, "message 0 of the prompt has the content None"),
        ({"prompt": [{"role": None, "content": "Hi"}]}, "message 0 of the prompt has the role None"),
        ({"prompt": ["Hi"]}, "message 0 of the prompt is 'Hi'"),
        (
            {"prompt": [{**MESSAGE, "content": [{"type": "audio"}]}]},
            "message 0 of the prompt has the part {'type': 'audio'}",
        ),
        ({"prompt": [{**MESSAGE, "content": [{"type": "image", "image": "a.png"}]}]}, "has the part {'type': 'image'"),
        ({"prompt": [{**MESSAGE, "content": "<audio>What is <image>?"}]}, "the prompt contains <image>"),
        ({"images": ["a.png"]}, "the column 'images' is not empty"),
        ({"data_source": None}, "data_source is None. It must be a text"),
        ({"extra_info": 7}, "extra_info is 7. It must be a dictionary or null"),
        ({"reward_model": None}, "no ground_truth"),
        ({"reward_model": {"style": "rule"}}, "no ground_truth"),
    ],
)
def test_the_shape_of_a_row_is_looked_at(rows, tmp_path, processor, change, reason):
    """Rows of one shape, as Arrow has them: the first is as bad as the others."""
    write_rows([{**row, **change} for row in rows], tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=f"rows.parquet, row 0: .*{reason}"):
        SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, CONFIG, processor)


def turns(*roles, **texts) -> list[dict]:
    return [{"role": role, "content": texts.get(role, "<audio>Hi" if role == "user" else "Hello")} for role in roles]


@pytest.mark.parametrize(
    "prompt, reason",
    [
        (
            turns("user", "human"),
            "message 1 of the prompt has the role 'human'. It must be one of system, user, assistant",
        ),
        (turns("User", User="<audio>Hi"), "message 0 of the prompt has the role 'User'"),
        (
            turns("user", "system"),
            "message 1 of the prompt has the role 'system', which only the first message may have",
        ),
        (turns("user", "assistant"), "the prompt ends with a message of the assistant"),
        (turns("system", "tool", system="<audio>"), "the prompt has no message of the user"),
        (turns("system", system="<audio>"), "the prompt has no message of the user"),
        (
            turns("system", "user", system="<audio>", user=" \n"),
            "message 1 of the prompt, a message of the user, is empty",
        ),
    ],
)
def test_the_turns_of_a_prompt_are_looked_at(rows, prompt, reason):
    with pytest.raises(ValueError, match=reason):
        spoken_row({**rows[0], "prompt": prompt}, "/root", Keys())


def test_turns_that_are_taken(build, rows):
    for row, roles in zip(rows, [("system", "user"), ("system", "tool", "user"), ("user",)], strict=True):
        row["prompt"] = turns(*roles, system="")
    assert len(build(rows)) == 3


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<placeholder>"])
@pytest.mark.parametrize("role", ["system", "user"])
def test_no_text_of_a_prompt_holds_what_is_not_read_as_text(build, rows, token, role):
    """`<placeholder>` is what transformers' processor writes for a clip, for a moment."""
    place = ("system", "user").index(role)
    rows[1]["prompt"] = turns("system", "user", **{role: "<audio>" * place + f"Say {token}user."})
    with pytest.raises(
        ValueError, match=rf"row 1: message {place} of the prompt contains {re.escape(repr(token))}, which"
    ):
        build(rows)


def test_what_is_only_text_to_the_tokenizer_is_taken(build, rows):
    rows[1] |= {"prompt": turns("user", user="What stands for <placeholder>, <s> and <|nothing|>?"), "audios": None}
    assert len(build(rows)) == 3


def test_clips_in_which_there_is_nothing_to_hear_are_counted_when_training_starts(build, rows, tmp_path, caplog):
    soundfile.write(tmp_path / "1.wav", 0.3 * np.sin(np.arange(16000) / 20), 16000)
    assert len(build(rows)) == 3
    assert "2 of 3 rows have a clip in which nothing can be heard, and are used" in caplog.text


TOOLS = f"{PROJECT}/tests/helpers/tools.yaml"


def test_tools_are_told_before_training_what_is_wrong_with_them(build, rows, tmp_path, processor):
    assert len(build(rows, tool_config_path=TOOLS)) == 3
    rows[1]["prompt"][0]["content"] = "<audio>Translate."
    with pytest.raises(ValueError, match="row 1: the prompt does not name the tool 'German'"):
        build(rows, tool_config_path=TOOLS)
    (tmp_path / "tools.yaml").write_text("tools: [{class_name: verl_leaf.speech.tools.Cut, config: {type: native}}]")
    with pytest.raises(ValueError, match="multi_turn: the tools of .*tools.yaml cannot be loaded .*'Cut'"):
        build(rows, tool_config_path=f"{tmp_path}/tools.yaml")


def test_a_family_of_one_clip_has_no_tools_that_return_audio(rows, tmp_path, models):
    processor = AutoProcessor.from_pretrained(models("granite_speech"))
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    config = OmegaConf.merge(CONFIG, {"tool_config_path": TOOLS})
    with pytest.raises(ValueError, match=r"row 0: a tool returns audio after 1 clip\(s\), and granite_speech takes 1"):
        SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, config, processor)


def test_null_audios_are_none(build, rows):
    rows[1] |= {"audios": None, "prompt": [{"role": "user", "content": "Say hello in German, then <image>."}]}
    dataset = build(rows)
    assert [len(RLHFDataset._extract_audio_info(item["raw_prompt"]) or []) for item in dataset] == [1, 0, 1]


@pytest.mark.parametrize("with_column", [True, False])
def test_parts_count_with_what_they_hold(build, rows, tmp_path, processor, with_column):
    """Arrow gives every part the keys of all; a template that asks whether a part has the key `audio` would see four clips."""
    expected = [item["raw_prompt"] for item in build(rows)]
    for row in rows:
        parts = [{"type": "audio", "audio": row["audios"][0]}, {"type": "text", "text": "Translate into German."}]
        row["prompt"], row["audios"] = [{"role": "user", "content": parts}], [] if with_column else None
        if not with_column:
            del row["audios"]
    assert [item["raw_prompt"] for item in build(rows)] == expected


def test_audio_of_parts_and_of_the_column_keep_their_order(build, rows):
    parts = [{"type": "audio", "audio": "2.wav"}, {"type": "text", "text": "and this?"}]
    row = {**rows[0], "audios": ["0.wav", "1.wav"]}
    texts = [{"role": role, "content": f"<audio>{role}"} for role in ("user", "tool")]
    keys = {"prompt": [texts[0], {"role": "user", "content": parts}, texts[1]]}
    spoken = spoken_row({**row, **keys}, "/root", Keys())
    assert spoken["audios"] == ["/root/0.wav", "/root/2.wav", "/root/1.wav"]
    assert [message["content"] for message in spoken["prompt"]] == [
        "<audio>user",
        "<audio>and this?",
        "<audio>tool",
    ]


def test_keys_that_are_null_are_not_there(rows):
    """Templates ask whether a message has a key; verl takes what a part of audio holds beside its type."""
    parts = [{"type": "audio", "audio": None, "audio_url": None, "path": "0.wav"}, {"type": "text", "text": "Hi"}]
    prompt = [{"role": "user", "content": parts, "name": None, "tool_calls": None}]
    spoken = spoken_row({**rows[0], "prompt": prompt, "audios": None}, "/root", Keys())
    assert spoken["prompt"] == [{"role": "user", "content": "<audio>Hi"}]
    assert spoken["audios"] == [{"path": "/root/0.wav"}]


def test_files_of_other_types_train_together(rows, tmp_path, processor):
    """Audio as path or bytes, a reference as text, list or number, a source as text or number, columns that some lack."""
    embedded = {"bytes": (tmp_path / "1.wav").read_bytes(), "path": None}
    several = {"style": "rule", "ground_truth": ["ja", "doch"]}
    write_rows(rows[:1], tmp_path / "a.parquet")
    write_rows([{**rows[1], "audios": [embedded], "reward_model": several, "data_source": 7}], tmp_path / "b.parquet")
    write_rows(
        [{**rows[2], "reward_model": {"ground_truth": 42}, "extra_info": None, "more": 1.5}], tmp_path / "c.parquet"
    )
    files = [str(tmp_path / f"{name}.parquet") for name in "abc"]
    dataset = SpeechDataset(files, processor.tokenizer, CONFIG, processor)
    batch = collate_fn(list(dataset))
    assert [truth["ground_truth"] for truth in batch["reward_model"]] == ["Antwort 0", ["ja", "doch"], 42]
    assert batch["data_source"].tolist() == ["test", "7", "test"]
    assert batch["more"].tolist() == [None, None, 1.5]
    lengths = [len(render_prompt(processor, prompt, CONFIG)[1][0]) for prompt in batch["raw_prompt"]]
    assert lengths == [16000, 16800, 17600]


def test_other_names_of_columns(rows, tmp_path, processor):
    for row in rows:
        row["speech"], row["messages"] = row.pop("audios"), row.pop("prompt")
    write_rows(rows, tmp_path / "rows.parquet")
    config = OmegaConf.merge(CONFIG, {"audio_key": "speech", "prompt_key": "messages"})
    dataset = SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, config, processor)
    assert len(render_prompt(processor, dataset[1]["raw_prompt"], CONFIG)[1][0]) == 16800
    keys = Keys.of(config)
    swapped = read(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN, keys))
    assert sorted(row["speech"][0] for row in swapped) == [str(tmp_path / f"{number}.wav") for number in range(3)]
    with pytest.raises(ValueError, match="there is no column 'prompt'. The columns are .*data.prompt_key"):
        SpeechDataset(str(tmp_path / "rows.parquet"), processor.tokenizer, CONFIG, processor)


@pytest.mark.parametrize(
    "option, message",
    [
        (
            {"reward_fn_key": "corpus"},
            "data.reward_fn_key=corpus: verl's reward managers always read the column data_source",
        ),
        ({"audio_key": None}, "data.audio_key=None: set it to the name of a column"),
        ({"long_audio": None}, "data.long_audio=None is not valid"),
        ({"mm_processor_kwargs": {"fps": 1}}, "data.mm_processor_kwargs=.*Remove the setting"),
    ],
)
def test_settings_that_cannot_be_followed(build, rows, option, message):
    with pytest.raises(ValueError, match=message):
        build(rows, **option)


def test_long_prompts_are_left_out_where_verl_is_told_so(build, rows, tmp_path, caplog):
    spoil(rows[1], tmp_path, "long prompt")
    dataset = build(rows, filter_overlong_prompts=True)
    assert [item["index"] for item in dataset] == [0, 2]
    assert "1 of 3 rows have a prompt of more than 160 tokens and are left out" in caplog.text


def test_of_max_samples_verls_own_choice_is_checked_alone(rows, tmp_path, processor, caplog):
    rows = [{**rows[0], "extra_info": {"index": number}} for number in range(20)]
    chosen = np.random.default_rng(5).choice(20, size=4, replace=False).tolist()
    for number in set(range(20)) - set(chosen):
        rows[number]["audios"] = ["gone.wav"]
    write_rows(rows[:9], tmp_path / "a.parquet")
    write_rows(rows[9:], tmp_path / "b.parquet")
    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    config = OmegaConf.merge(CONFIG, {"shuffle": True, "seed": 5})
    dataset = SpeechDataset(files, processor.tokenizer, config, processor, max_samples=4)
    assert [item["index"] for item in dataset] == chosen
    assert "4 of 20 rows are used" in caplog.text
    dataset.resume_dataset_state()
    assert [item["index"] for item in dataset] == chosen


def test_rows_can_be_read_by_forked_workers(build, rows):
    loader = DataLoader(build(rows * 20), batch_size=4, num_workers=2, collate_fn=collate_fn)
    indices = [index for batch in loader for index in batch["index"]]
    assert indices == [0, 1, 2] * 20


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
    with pytest.raises(ValueError, match="data.long_audio=drop is not valid. Valid values are error, cut, skip"):
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
        clips, mels, frames = features["input_features"].shape
        assert (clips, mels) == (1, 32) and min(-(-samples // 160) + 2, 3000) <= frames <= 3000


def test_collapsed_prompt_has_one_placeholder_a_clip(processor):
    family = FAMILIES["qwen2_audio"]
    text = "<|audio_bos|><|AUDIO|><|audio_eos|> and <|audio_bos|><|AUDIO|><|audio_eos|> compare"
    ids, _ = family.encode(processor, text, [np.zeros(16000, np.float32), np.zeros(8000, np.float32)])
    collapsed = _collapse_runs(ids, processor.audio_token_id)
    assert collapsed == processor.tokenizer(text)["input_ids"]
    assert ids.count(processor.audio_token_id) == 25 + 12


PLAIN = OmegaConf.create({})  # a configuration whose reward has no tokeniser


def read(file):
    return [row for _, row in RowFile(file).rows()]


def test_swapped_rows_have_the_audio_of_others(build, rows, tmp_path):
    build(rows)
    swapped = datasets.Dataset.from_parquet(
        str(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN))
    )
    originals = [str(tmp_path / row["audios"][0]) for row in rows]
    assert sorted(row["audios"][0] for row in swapped) == originals
    assert all(row["audios"][0] != original for row, original in zip(swapped, originals, strict=True))
    assert {row["data_source"] for row in swapped} == {"test" + SWAPPED_AUDIO_SUFFIX}
    assert [row["reward_model"]["ground_truth"] for row in swapped] == ["Antwort 0", "Antwort 1", "Antwort 2"]


def test_swapped_rows_keep_their_number_of_clips_and_are_usable(build, rows, tmp_path, processor, caplog):
    """One row without audio, two with two clips, three with one of which two are the same clip."""
    two = {"prompt": [{"role": "user", "content": "<audio><audio>Compare."}]}
    rows = [
        {**rows[0], "audios": None, "prompt": [{"role": "user", "content": "Say hello."}]},
        {**rows[0], **two, "audios": ["0.wav", "1.wav"]},
        {**rows[1], **two, "audios": ["1.wav", "2.wav"]},
        *({**row, "audios": ["0.wav"]} for row in rows[:2]),
        {**rows[2], "audios": ["2.wav"]},
    ]
    build(rows)
    out = write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN)
    names = [[os.path.basename(audio) for audio in row["audios"]] for row in read(out)]
    assert names == [["1.wav", "2.wav"], ["0.wav", "1.wav"], ["0.wav"], ["2.wav"], ["0.wav"]]
    assert "1 of the first 6 rows are not in the control" in caplog.text
    assert "1 rows of the control keep their own clip" in caplog.text
    assert len(SpeechDataset(str(out), processor.tokenizer, CONFIG, processor)) == 5


@pytest.mark.parametrize("reward", [{}, {"path": "pkg://verl_leaf.rewards", "reward_kwargs": {"tokenize": "zh"}}])
def test_the_shift_is_the_one_whose_references_share_the_fewest_words(rows, tmp_path, reward):
    """Each half of the rows has nearly the same reference twice; without Chinese words, all shifts are alike."""
    texts = ["今天天气很好我们去公园", "今天天气很好我们去海边", "她在图书馆安静地读书", "她在图书馆安静地写字"]
    spoken = [
        {**rows[0], "audios": [f"{number}.wav"], "reward_model": {"ground_truth": text}}
        for number, text in enumerate(texts)
    ]
    write_rows(spoken, tmp_path / "rows.parquet")
    config = OmegaConf.create({"reward": {"custom_reward_function": reward}})
    swapped = read(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", config))
    assert [os.path.basename(row["audios"][0]) for row in swapped] == ["2.wav", "3.wav", "0.wav", "1.wav"]


def test_audio_within_parts_is_swapped_too(build, rows, tmp_path):
    for row in rows:
        parts = [{"type": "audio", "audio": row["audios"][0]}, {"type": "text", "text": "Translate."}]
        row["prompt"], row["audios"] = [{"role": "user", "content": parts}], []
    build(rows)
    swapped = read(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN))
    assert [row["prompt"] for row in swapped] == [[{"role": "user", "content": "<audio>Translate."}]] * 3
    assert all(row["audios"] != [str(tmp_path / f"{number}.wav")] for number, row in enumerate(swapped))


@pytest.mark.parametrize("truth", [7, 0.5, ["ja", "doch"], {"target": ["ja"]}])
def test_references_of_any_kind_are_swapped(rows, tmp_path, truth):
    """A reward of the user's own may take any."""
    write_rows([{**row, "reward_model": {"ground_truth": truth}} for row in rows], tmp_path / "rows.parquet")
    swapped = read(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN))
    assert [row["reward_model"]["ground_truth"] for row in swapped] == [truth] * 3


def test_embedded_audio_and_columns_of_mixed_types_are_swapped(rows, tmp_path):
    for number, row in enumerate(rows):
        row["audios"] = [{"bytes": (tmp_path / f"{number}.wav").read_bytes(), "path": None}]
        row["extra_info"] = [{"index": 0}, {"index": "a"}, {}][number]
    write_rows(rows, tmp_path / "rows.parquet", mixed=["extra_info"])
    swapped = read(write_swapped(tmp_path / "rows.parquet", tmp_path / "out.parquet", PLAIN))
    assert [row["extra_info"] for row in swapped] == [row["extra_info"] for row in rows]
    assert {row["audios"][0]["bytes"] for row in swapped} == {row["audios"][0]["bytes"] for row in rows}


def test_what_cannot_be_swapped(rows, tmp_path):
    write_rows(rows[:1], tmp_path / "one.parquet")
    with pytest.raises(ValueError, match="one.parquet: no two of its first 1 row"):
        write_swapped(tmp_path / "one.parquet", tmp_path / "out.parquet", PLAIN)
    silent = {"audios": [], "prompt": [{"role": "user", "content": "Hi"}]}
    write_rows([{**row, **silent} for row in rows], tmp_path / "silent.parquet")
    assert write_swapped(tmp_path / "silent.parquet", tmp_path / "out.parquet", PLAIN) is None
    write_rows([{**row, "reward_model": None} for row in rows], tmp_path / "null.parquet")
    with pytest.raises(ValueError, match="null.parquet, row 0: reward_model contains no ground_truth"):
        write_swapped(tmp_path / "null.parquet", tmp_path / "out.parquet", PLAIN)
    assert not (tmp_path / "out.parquet").exists()


def test_the_first_rows_are_found_from_another_folder(build, rows, tmp_path, processor):
    build(rows)
    (tmp_path / "run").mkdir()
    write_first_rows(tmp_path / "rows.parquet", tmp_path / "run/first.parquet", 2, Keys())
    dataset = SpeechDataset(str(tmp_path / "run/first.parquet"), processor.tokenizer, CONFIG, processor)
    assert [item["index"] for item in dataset] == [0, 1]
    write_first_rows(tmp_path / "rows.parquet", tmp_path / "run/text.parquet", 2, None)
    assert [row["audios"] for row in read(tmp_path / "run/text.parquet")] == [["0.wav"], ["1.wav"]]


@pytest.mark.parametrize(
    "ground_truth, texts",
    [
        ("Ja", ["Ja"]),
        ("", [""]),
        (["Ja", "Doch"], ["Ja", "Doch"]),
        (7, ["7"]),
        (-12345678901234567890, ["-12345678901234567890"]),
        (3.25, ["3.25"]),
        ([1, 0.5, "zwei"], ["1", "0.5", "zwei"]),
        (decimal.Decimal("0.5"), ["0.5"]),
        (np.array(["Ja"], object), ["Ja"]),
        (np.int64(7), ["7"]),
    ],
)
def test_references_that_have_a_text(ground_truth, texts):
    assert reference_texts(ground_truth) == texts


@pytest.mark.parametrize(
    "ground_truth",
    [
        None, {}, {"target": "Ja"}, [], [["Ja"]], ["Ja", None], True, b"Ja", float("nan"), float("inf"),
        42.0,  # what pandas makes of 42 in a column with gaps
        0.1 + 0.2, float(np.float32(0.1)), 1e22, 1e-7, decimal.Decimal("42.00"), np.array([]),
    ],
)  # fmt: skip
def test_references_that_have_none_or_several(ground_truth):
    with pytest.raises(ValueError, match="the reference .* is not a text, a number with a single spelling"):
        reference_texts(ground_truth)
