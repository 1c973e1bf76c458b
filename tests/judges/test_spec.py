"""A judge's file: every error names file, key and value; the README's examples can be read."""

import re

import pytest

from tests.helpers import PROJECT
from verl_leaf.evaluate.voicebench import JUDGED
from verl_leaf.judges import JudgeSpec, read_spec

GOOD = "url: http://localhost:8000/v1/\nmodel: m\nkind: da\nrubric: qa\n"


def written(tmp_path, text, name="my judge.yaml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults(tmp_path):
    spec = read_spec(written(tmp_path, GOOD))
    assert spec.name == "my_judge" and spec.url == "http://localhost:8000/v1" and spec.key is None
    assert spec.cost(10, 10) == 0


@pytest.mark.parametrize(
    "change, said",
    [
        ("kind: daa", "kind: 'daa': Input should be 'da', 'likert', 'correct' or 'pairwise'"),
        ("samples: 0", "samples: '0': Input should be greater than or equal to 1"),
        ("samples: 2", "samples: 2 replies at temperature 0 would all be the same"),
        ("temperature: hot", "temperature: 'hot': Input should be a valid number"),
        ("temperature: .nan", "temperature: 'nan': Input should be "),
        ("budget: 3", "budget: it needs prices"),
        ("prices: {input: -1, output: 1}", "prices.input: '-1': Input should be greater"),
        ("prices: {input: 1}", "prices.output: is missing"),
        ("price: 3", "price: there is no such key. The keys are name, url, model, key_variable, kind"),
        ("url: localhost:8000", "url: 'localhost:8000': String should match"),
        ("url: http://a:x", "url: 'http://a:x': Invalid port"),
        ("extra_body: {since: 2020-01-01}", "extra_body.since: '2020-01-01': input was not a valid JSON value"),
        ("rubric: quality", "rubric: 'quality': kind da has only the rubrics translation, qa"),
        ("format: judgelm", "format: judgelm grades two answers at once"),
        ("key_variable: NOT_SET_HERE", "key_variable: 'NOT_SET_HERE': the environment variable is not set"),
        ("name: ../x", "name: '../x': String should match"),
        ("rate: 0", "rate: '0': Input should be greater than 0"),
    ],
)
def test_errors_name_file_key_and_value(change, said, tmp_path):
    key = change.split(":")[0]
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key}:")]
    file = written(tmp_path, "\n".join([*lines, change]))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{file}: ')}.*{re.escape(said)}") as error:
        read_spec(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "model: m", "a: [", "url: \0"])
def test_files_that_are_no_judge(text, tmp_path):
    file = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        read_spec(file)
    file.write_bytes("model: Müller".encode("latin-1"))
    with pytest.raises(ValueError, match="is not valid YAML in UTF-8"):
        read_spec(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")


def test_the_key_is_in_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret-7\n")
    spec = read_spec(written(tmp_path, GOOD + "key_variable: JUDGE_KEY"))
    assert spec.key == "secret-7" and "secret" not in repr(spec)
    monkeypatch.setenv("JUDGE_KEY", "Schlüssel")
    with pytest.raises(ValueError, match="the variable's value is not a key"):
        read_spec(written(tmp_path, GOOD + "key_variable: JUDGE_KEY"))


README, VOICEBENCH = (
    (PROJECT / f"verl_leaf/{room}/README.md").read_text(encoding="utf-8") for room in ("judges", "evaluate/voicebench")
)


def examples_of(readme, tmp_path) -> list[JudgeSpec]:
    return [read_spec(written(tmp_path, example)) for example in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)]


def test_the_examples_of_the_readmes(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    specs = examples_of(README, tmp_path)
    assert {spec.kind for spec in specs} == {"da", "likert", "correct", "pairwise"}
    assert {spec.reply_format for spec in specs} == {"json", "prometheus", "bare", "judgelm"}
    assert {(spec.kind, spec.rubric) for spec in examples_of(VOICEBENCH, tmp_path)} == set(JUDGED.values())


def test_the_readme_lists_every_key_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README.split("## Kinds")[0], re.MULTILINE))
    assert rows.keys() == JudgeSpec.model_fields.keys()
    for name, field in JudgeSpec.model_fields.items():
        if isinstance(field.default, bool | int | float):
            assert rows[name].strip("`") == str(field.default).lower().removesuffix(".0"), name
