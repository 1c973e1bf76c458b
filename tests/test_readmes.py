"""What the READMEs show works: commands parse, overrides compose, options exist, links lead somewhere, Python runs.

Commands and overrides are the lines of indented blocks and of fences marked ``bash``, and inline code that looks like one.
Overrides are composed with ``leaf_speech``, the recipes' configuration. Those with a ``+`` are for verl's own
``ppo_trainer`` where the paragraph above them says "plain".
"""

import contextlib
import dataclasses
import fnmatch
import functools
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib
from markdown_it import MarkdownIt
from markdown_it.token import Token
from omegaconf import OmegaConf
from verl.trainer.config import AlgoConfig
from verl.workers.config import PolicyLossConfig

from examples.leaf_against_grpo.cells import possible
from tests.helpers import PROJECT
from verl_leaf import prepare
from verl_leaf.adapters.token_credit import EstimatorSettings
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.cli import parser
from verl_leaf.config import compose
from verl_leaf.rewards.check import check_reward
from verl_leaf.runs.command import Training

ROOMS = (".github", "examples", "recipes", "tests", "verl_leaf")
READMES = [PROJECT / "README.md", *sorted(file for room in ROOMS for file in (PROJECT / room).rglob("*.md"))]
OVERRIDE = re.compile(r"\+{0,2}(family|machine|\w+(\.\w+)+)=")
VARIABLE = re.compile(r"([A-Z_]+)=(.*)")
OURS = ("verl-leaf", "bash", "sbatch", "python")
# Commands of others, which are taken as they are.
THEIRS = ("apt-get", "cd", "git", "mypy", "pip", "pre-commit", "pytest", "ray", "ruff", "unzip", "uv")
# Commands of other trainers, with their arguments; tests/adapters runs them where the trainer is installed.
ADAPTERS = "verl_leaf.adapters."
# What verl leaves open below it, so that Hydra's + adds to it and nothing is declared.
OPEN = ("reward.custom_reward_function.reward_kwargs.",)


@dataclass(frozen=True)
class Shown:
    """A command, or overrides that belong together, as a shell would split them."""

    readme: Path
    words: tuple[str, ...]
    above: str  # the paragraph above or around it
    inline: bool  # a mention in a sentence, which may leave out arguments

    def __str__(self) -> str:
        return f"{self.readme.relative_to(PROJECT)}: {shlex.join(self.words)}"


def markdown(readme: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(readme.read_text(encoding="utf-8"))


def shown(readme: Path) -> Iterator[Shown]:
    """All commands and overrides of a README."""
    above = ""
    for token in markdown(readme):
        if token.type == "inline":
            above = token.content
            for code in inline_code(token):
                words = split(code)
                if is_override(words) or head(words) in OURS:
                    yield Shown(readme, words, above, inline=True)
        elif token.type == "code_block" or (token.type == "fence" and token.info in ("", "bash")):
            yield from shown_in_block(readme, token.content, above)


def shown_in_block(readme: Path, block: str, above: str) -> Iterator[Shown]:
    """Commands one by one; overrides on consecutive lines together. A block with neither is text."""
    lines = [split(line) for line in block.replace("\\\n", " ").splitlines()]
    if not any(is_override(words) or head(words) in OURS for words in lines):
        return
    overrides: tuple[str, ...] = ()
    for words in [*lines, ()]:
        if is_override(words):
            overrides += words
            continue
        if overrides:
            yield Shown(readme, overrides, above, inline=False)
            overrides = ()
        if words:
            yield Shown(readme, words, above, inline=False)


def inline_code(token: Token) -> list[str]:
    return [child.content for child in token.children or () if child.type == "code_inline"]


def split(line: str) -> tuple[str, ...]:
    """Return the words of a line as a shell splits them; none if it is not a shell's."""
    try:
        return tuple(shlex.split(line, comments=True))
    except ValueError:
        return ()


def is_override(words: tuple[str, ...]) -> bool:
    return bool(words) and all(OVERRIDE.match(word) for word in words)


def head(words: tuple[str, ...]) -> str:
    """The command itself, after the variables before it; empty where there is none."""
    return next(iter(words[len(variables(words)) :]), "")


def variables(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        assignment = VARIABLE.fullmatch(word)
        if assignment is None:
            break
        found[assignment[1]] = assignment[2]
    return found


SHOWN = [each for readme in READMES for each in shown(readme)]
OVERRIDES = list({(each.words, each.above): each for each in SHOWN if is_override(each.words)}.values())
COMMANDS = list({each.words: each for each in SHOWN if not is_override(each.words)}.values())


def modules() -> list[str]:
    """Return our modules that commands start."""
    names = {each.words[2] for each in COMMANDS if each.words[:2] == ("python", "-m") and len(each.words) > 2}
    own = (name for name in names if name.startswith(("tests.", "examples.", "verl_leaf.")))
    return sorted(name for name in own if not name.startswith(ADAPTERS))


@functools.cache
def composed(config_name: str, overrides: tuple[str, ...] = ()):
    return compose(config_name, list(overrides))


@functools.cache
def declared() -> frozenset[str]:
    """The keys of all configurations, sections included, and those that only verl's classes have."""
    names = ("ppo_trainer", "leaf_speech", "leaf_speech_cpu")
    found = {key for name in names for key in keys(OmegaConf.to_container(composed(name), resolve=False))}
    for section, verls in (("algorithm", AlgoConfig), ("actor_rollout_ref.actor.policy_loss", PolicyLossConfig)):
        found |= {f"{section}.{field.name}" for field in dataclasses.fields(verls)}
    return frozenset(found)


def keys(config: dict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


def check_overrides(overrides: tuple[str, ...], config_name: str) -> None:
    for override in overrides:
        key = override.lstrip("+").split("=")[0]
        if override.startswith("+") and not key.startswith(OPEN):  # with a + Hydra would take any name
            assert key in declared(), f"{key}: no configuration has this setting"
    reward = composed(config_name, overrides).reward.custom_reward_function
    if any("reward.custom_reward_function." in override for override in overrides) and reward.name:
        check_reward(reward.name, OmegaConf.to_container(reward.get("reward_kwargs") or OmegaConf.create()), {})


def check_main_ppo(arguments: list[str]) -> None:
    config_name, words = "ppo_trainer", [word for word in arguments if word != "..."]
    if "--config-name" in words:
        config_name = words.pop(words.index("--config-name") + 1)
        words.remove("--config-name")
    check_overrides(tuple(words), config_name)


def check_recipe(script: str, arguments: list[str], environment: dict[str, str]) -> None:
    recipes = "".join(file.read_text() for file in (PROJECT / "recipes").glob("*.sh"))
    assert not [name for name in environment if f"${{{name}" not in recipes], "a variable that no recipe reads"
    overrides = tuple(word for word in arguments if word != "--dry-run")
    if "METHOD" in environment:
        assert environment["METHOD"] in ("grpo", *ESTIMATORS)
        overrides = (f"algorithm.adv_estimator={environment['METHOD']}", *overrides)
    if "DATA" in environment:
        assert environment["DATA"] in prepare.CORPORA
    family = re.search(r"^FAMILY=(\w+)", (PROJECT / script).read_text(), re.MULTILINE)[1]
    check_overrides((f"family={family}", *overrides), "leaf_speech")


def check_bash(script: str, arguments: list[str], environment: dict[str, str]) -> None:
    assert (PROJECT / script).is_file(), f"{script} is not here"
    if script == "recipes/upstream/check.sh":
        assert arguments in ([], ["CHECKOUT"])
    elif script.startswith("recipes/"):
        check_recipe(script, arguments, environment)
    elif script == "tests/run.sh":
        check_pytest(arguments)
    elif script == "tests/versions/lane.sh":
        assert (
            arguments[0] in tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
        check_pytest(arguments[1:])
    elif script == "tests/versions/follow_verl.sh":
        verl, *others = arguments
        assert re.fullmatch(r"[\d.]+|VERSION|path/to/verl", verl)
        check_pytest(others)
    elif script == "tests/adapters/run.sh":
        assert (PROJECT / f"tests/adapters/test_{arguments[0]}.py").is_file()
    elif script == "examples/real_speech/run.sh":
        assert arguments in ([], ["--train"])
    else:
        cells = ["--second", *(cell.name for cell in possible())]
        others = [word for word in arguments if not OVERRIDE.match(word)]
        assert all(fnmatch.filter(cells, word) for word in others), f"none of {others} is a cell of the study"
        check_overrides(tuple(word for word in arguments if OVERRIDE.match(word)), "leaf")


def check_pytest(arguments: list[str]) -> None:
    paths = [word.split("::")[0] for word in arguments if word.startswith("tests")]
    assert all((PROJECT / path).exists() for path in paths), paths


def check_verl_leaf(arguments: list[str], inline: bool) -> None:
    if inline:  # it may leave out what is required
        names = arguments[: 2 if arguments[:1] == ["prepare"] else 1]
        options = set(re.findall(r"--[\w-]+", help_of(*names)))
        assert {word for word in arguments if word.startswith("--")} <= options
        return
    options = parser().parse_args(arguments)
    if options.command == "train":
        _ = Training("leaf_speech", tuple(options.overrides), options.val, family=options.family).config


def help_of(*names: str) -> str:
    """The help of a command of verl-leaf; fails where there is no such command."""
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit) as end:
        parser().parse_args([*names, "--help"])
    assert end.value.code == 0, f"verl-leaf {' '.join(names)}: no such command"
    return text.getvalue()


@pytest.fixture(scope="session")
def module_help() -> dict[str, str]:
    """``--help`` of the modules that are shown, asked in one process, which imports torch and verl once."""
    code = """
import contextlib, io, json, runpy, sys, traceback
names, helps = sys.argv[1:], {}
for name in names:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc(file=text)
    helps[name] = text.getvalue()
print(json.dumps(helps))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, *modules()], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def check_python(arguments: list[str], module_help: dict[str, str]) -> None:
    if arguments[0] != "-m":
        assert (PROJECT / arguments[0]).is_file(), f"{arguments[0]} is not here"
    elif arguments[1] == "verl.trainer.main_ppo":
        check_main_ppo(arguments[2:])
    elif arguments[1] == "pytest":
        check_pytest(arguments[2:])
    elif arguments[1].startswith(ADAPTERS):
        assert (PROJECT / f"{arguments[1].replace('.', '/')}.py").is_file(), f"{arguments[1]} is not here"
        own = {f"--leaf.{each.name}" for each in dataclasses.fields(EstimatorSettings)}
        assert {word for word in arguments if word.startswith("--leaf.")} <= own
    elif arguments[1] in modules():
        help_text = module_help[arguments[1]]
        assert help_text.startswith("usage: "), help_text
        assert {word for word in arguments[2:] if word.startswith("--")} <= set(re.findall(r"--[\w-]+", help_text))


@pytest.mark.parametrize("each", COMMANDS, ids=str)
def test_a_command_is_one(each, module_help):
    environment = variables(each.words)
    name, *arguments = each.words[len(environment) :]
    if name == "verl-leaf":
        check_verl_leaf(arguments, each.inline)
    elif name == "bash":
        check_bash(arguments[0], arguments[1:], environment)
    elif name == "sbatch":
        assert arguments[0] == "recipes/slurm.sh"
        check_bash(arguments[1], arguments[2:], environment)
    elif name == "python":
        check_python(arguments, module_help)
    else:
        assert name in THEIRS or (PROJECT / name).is_file(), f"{name}: no command that is known here"


@pytest.mark.parametrize("each", OVERRIDES, ids=str)
def test_an_override_is_one(each):
    plain = re.search(r"\bplain\b", each.above) and any(re.match(r"\+\+?\w", word) for word in each.words)
    check_overrides(each.words, "ppo_trainer" if plain else "leaf_speech")


@pytest.mark.parametrize("override", ["data.long_audi=cut", "+algorithm.leaf.fork_budge=2", "+data.long_audio=cut"])
def test_a_misspelt_override_is_found(override):
    with pytest.raises((ValueError, AssertionError), match="setting|append"):
        check_overrides((override,), "leaf_speech")


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(PROJECT)))
def test_options_exist(readme, module_help):
    """Those of commands wherever one is named; settings and the recipes' variables where a table lists them."""
    text = readme.read_text(encoding="utf-8")
    options = {"--dry-run", *re.findall(r"--[\w-]+", "".join(all_help()))}
    for module, help_text in module_help.items():
        if module in text:
            options.update(re.findall(r"--[\w-]+", help_text))
    named = [code for token in markdown(readme) if token.type == "inline" for code in inline_code(token)]
    assert not [code for code in named if code.startswith("--") and code.split()[0].split("=")[0] not in options]

    recipes = "".join(file.read_text() for file in (PROJECT / "recipes").glob("*.sh"))
    for row in tables(readme):
        for code in (*row.get("option", ()), *row.get("setting", ()), *row.get("verl's setting", ())):
            known = code in declared() or any(key.endswith(f".{code}") for key in declared())
            assert known or code.startswith("--"), f"{code}: no configuration has this setting"
        for code in row.get("variable", ()):
            assert f"${{{code}" in recipes, f"{code}: no recipe reads this variable"


@functools.cache
def all_help() -> tuple[str, ...]:
    """The help of every command of verl-leaf."""
    names = re.search(r"\{([\w,-]+)\}", help_of())[1].split(",")
    return tuple(help_of(name) for name in names) + tuple(help_of("prepare", corpus) for corpus in prepare.CORPORA)


def tables(readme: Path) -> Iterator[dict[str, list[str]]]:
    """The rows of all tables: heading of a column -> the code in its cell."""
    headings, cells, in_head = [], [], False
    for token in markdown(readme):
        if token.type == "thead_open":
            headings, in_head = [], True
        elif token.type == "thead_close":
            in_head = False
        elif token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            if in_head:
                headings.append(token.content)
            else:
                cells.append(inline_code(token))
        elif token.type == "tr_close" and not in_head:
            yield dict(zip(headings, cells, strict=False))


def test_the_defaults_of_the_options_are_those_of_the_configuration():
    defaults = {row["option"][0]: row["default"][0] for row in tables(PROJECT / "README.md") if "option" in row}
    assert {f"algorithm.leaf.{name}" for name in composed("leaf").algorithm.leaf} < defaults.keys()
    for option, default in defaults.items():
        # What concerns speech is declared for speech alone.
        value = OmegaConf.select(composed("leaf_speech" if option == "data.long_audio" else "leaf"), option)
        assert default == ("null" if value is None else str(value)), option


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(PROJECT)))
def test_links_lead_somewhere(readme):
    lost = []
    for target in links(readme):
        path, _, anchor = target.partition("#")
        file = (readme.parent / path).resolve() if path else readme
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


def links(readme: Path) -> Iterator[str]:
    for token in markdown(readme):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target and not re.match(r"\w+:", target):
                yield str(target)


def anchors(readme: Path) -> set[str]:
    """Return the anchors that GitHub makes from headings."""
    tokens = markdown(readme)
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_python_prints_what_stands_below_it(tmp_path):
    (block,) = [token.content for token in markdown(PROJECT / "README.md") if token.info == "python"]
    expected = "".join(line.removeprefix("# ") + "\n" for line in block.splitlines() if line.startswith("# "))
    (tmp_path / "shown.py").write_text(block)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(tmp_path / "shown.py"))
    assert printed.getvalue() == expected != ""


def test_the_top_readme_is_read_in_five_minutes():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_extras_exist():
    there = set(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for readme in READMES:
        for extras in re.findall(r"'(?:verl-leaf|\.)\[([\w,]+)\]'", readme.read_text(encoding="utf-8")):
            assert set(extras.split(",")) <= there, readme


def test_every_departure_from_a_gpu_is_listed():
    """Settings in which ``leaf_speech_cpu`` differs from ``leaf_speech``, interpolations as they are written."""
    gpu, cpu = composed("leaf_speech"), composed("leaf_speech_cpu")
    differing = set(differences(*(OmegaConf.to_container(config, resolve=False) for config in (gpu, cpu))))
    listed = {code for row in tables(PROJECT / "tests/README.md") for code in row.get("setting", [])}
    assert listed == differing


def differences(one: dict, other: dict, prefix: str = "") -> Iterator[str]:
    """The keys of what differs; a section that only one of them has is one key."""
    for name in one.keys() | other.keys():
        mine, its = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(its, dict):
            yield from differences(mine, its, f"{prefix}{name}.")
        elif mine != its:
            yield f"{prefix}{name}"
