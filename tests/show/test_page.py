"""The tree page in a real browser: it opens from disk, shows the trace's numbers, and data stays data."""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, PngImagePlugin
from playwright.sync_api import expect, sync_playwright
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from tests.helpers import PROJECT
from tests.helpers.traced import PIECES, WORKED, traced_prompt, write_trace
from verl_leaf.algorithm.estimators import ESTIMATORS
from verl_leaf.cli import main
from verl_leaf.common.console import Console
from verl_leaf.show.tree_page import build
from verl_leaf.show.tree_page.build import write_tree

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
ITEM = "[role=treeitem]"
PAGE = Path(build.__file__).parent / "page"
PICTURE = PROJECT / ".github/pictures/tree.png"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of ``{step: prompts}`` from disk; at the end nothing must have been loaded or complained of."""
    complaints = []
    pages = []

    def opened(traces: dict[int, list[dict]], address: str = "", **context):
        for step, prompts in traces.items():
            write_trace(tmp_path / "run" / "traces", step, prompts)
        out = tmp_path / "page" / "tree.html"
        write_tree(tmp_path / "run", out, None, Console(quiet=True))
        page = browser.new_page(**context)
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.append(request.url) if request.url[:5] not in ("file:", "data:") else 0,
        )
        page.goto(f"file://{out}{address}")
        page.wait_for_selector(ITEM)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not complaints


def worked(**changes):
    return traced_prompt(**{**WORKED, **changes})


def rows(page) -> list[list[str]]:
    """The cells of the details."""
    return [row.locator("td").all_inner_texts() for row in page.locator(".details tbody tr").all()]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_the_numbers_are_those_of_the_trace(show):
    prompt = worked()
    page = show({10: [prompt]})
    seen = set()
    for item in page.locator(ITEM).all():
        item.focus()
        for responses, first, span, ends, value, n, toward_root, toward_node, credit, leaf, _ in rows(page):
            start, end = (int(at) for at in span.split("–"))
            for index, nats in zip((int(i) - 1 for i in responses.split(", ")), first.split(", "), strict=True):
                response = prompt["responses"][index]
                (told,) = (s for s in response["spans"] if (s["start"], s["end"] - 1) == (start, end))
                seen.add((index, start))
                assert number(leaf) == pytest.approx(told["advantage"], abs=6e-5)
                assert number(credit) == pytest.approx(told["credit"], abs=6e-5)
                assert float(nats) in [pytest.approx(s, abs=6e-4) for s in response["surprisal"]]
                node = None if told["node"] is None else prompt["nodes"][told["node"]]
                assert ends == ("its end" if node is None else f"node {told['node'] + 1}")
                assert number(value) == pytest.approx(node["value"] if node else response["reward"], abs=6e-5)
                assert int(n) == (len(node["responses"]) if node else 1)
                whole = (number(toward_root) + number(toward_node)) / int(n) ** 0.5
                assert whole == pytest.approx(told["credit"], abs=2e-4)
    assert seen == {(i, s["start"]) for i, response in enumerate(prompt["responses"]) for s in response["spans"]}
    rewards = page.locator(".leaf div").all_inner_texts()
    assert sorted(rewards) == ["0.000 #3", "0.500 #2", "0.800 #4", "1.000 #1"]
    assert page.locator(".node").all_inner_texts() == ["◆\n0.57", "◆\n0.90"]
    assert page.locator(".bar").count() == 20 and page.locator(".bar.cut").count() == 8
    assert page.locator(".bar.cut.idle").count() == 2  # responses 1 and 2 share no prefix of 4 tokens with another


def test_the_switch_shows_what_verl_s_grpo_pays(show):
    page = show({10: [worked()]})
    rewards = torch.tensor([[r, 0.0] for r in WORKED["rewards"]])
    paid, _ = compute_grpo_outcome_advantage(rewards, torch.ones(4, 2), np.array(["a"] * 4, dtype=object))
    page.locator(ITEM).first.focus()
    cells = ", ".join(row[-1] for row in rows(page))
    assert [number(cell) for cell in cells.split(", ")] == pytest.approx(paid[:, 0].tolist(), abs=1e-3)
    assert "settles 0.7989 of what rewards differ by" in page.locator("main").inner_text()
    first = page.locator(".edge .paid b").first
    assert first.inner_text() == "−0.06"
    colour = page.locator(".edge").nth(6).evaluate("node => getComputedStyle(node).backgroundColor")
    page.get_by_role("button", name="GRPO", exact=True).click()
    assert paid[:, 0].mean().abs() < 1e-6
    expect(first).to_have_text("0.00")
    assert page.locator(".edge").nth(6).evaluate("node => getComputedStyle(node).backgroundColor") != colour
    page.keyboard.press("g")
    expect(first).to_have_text("−0.06")
    page.get_by_role("button", name="grpo_prefix", exact=True).click()
    expect(first).to_have_text("0.00")
    expect(page.locator(".edge .paid b").nth(1)).not_to_have_text("+0.48")  # what LEAF pays
    for name in ("tempo", "lambda_grpo", "LEAF"):
        page.keyboard.press("x")
        expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
    expect(first).to_have_text("−0.06")


def test_keys_links_and_addresses(show):
    equal = worked(rewards=[0.5] * 4)
    page = show({10: [equal, worked()], 20: [worked(rewards=[0, 0, 1.0, 0])]})

    def here():
        return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")

    current = page.locator("nav ol [aria-current=true] .number")
    expect(current).to_contain_text("prompt 2 ")  # LEAF changed it most
    page.keyboard.press("n")
    assert here() == {"step": "10", "prompt": "1", "view": "leaf", "sort": "change"}
    expect(current).to_contain_text("prompt 1 ")
    page.keyboard.press("n")  # there is no other
    assert here()["prompt"] == "1"
    page.keyboard.press("s")
    expect(page.locator("nav ol .number").first).to_contain_text("prompt 1 ")
    page.keyboard.press(".")
    expect(page.locator(".steps [aria-current=true]")).to_have_text("20")
    assert page.locator(".leaf").all_inner_texts().count("1.000 #3") == 1
    page.get_by_role("link", name="10", exact=True).click()
    expect(page.locator(".steps [aria-current=true]")).to_have_text("10")
    address = page.url[page.url.index("#") :]
    shown = page.locator("main").inner_text()
    page.goto("about:blank")
    page = show({}, address)
    assert page.locator("main").inner_text() == shown


def test_the_tree_is_walked_by_arrow_keys(show):
    page = show({10: [worked()]})
    labels = [item.get_attribute("aria-label") for item in page.locator(ITEM).all()]
    assert labels[0].startswith(" zwei Hunde. 4 responses. LEAF −0.06, GRPO ")
    page.locator(ITEM).first.focus()
    for key, expected in (("ArrowRight", 1), ("ArrowDown", 2), ("End", 6), ("ArrowLeft", 0), ("ArrowUp", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == labels[expected], key
    levels = [int(item.get_attribute("aria-level")) for item in page.locator(ITEM).all()]
    assert levels == [1, 2, 3, 4, 4, 3, 2]
    assert page.locator(f"{ITEM}[tabindex='0']").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["leaf", "grpo", "grpo_prefix"])
def test_nothing_stands_in_the_way_of_screen_readers_and_weak_eyes(show, scheme, view):
    from axe_playwright_python.sync_playwright import Axe

    page = show({10: [worked()], 20: [worked()]}, f"#view={view}", color_scheme=scheme)
    page.wait_for_timeout(300)  # the colours fade in
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


EVIL = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{7*7}}<!--${1+1}\u202e\u2028\x00&amp;"


LONG = ["<unk>", "<|im_end|>", *(f" Wort{n}" for n in range(90)), " Donaudampfschifffahrtsgesellschaftskapitän" * 3]


def long_prompt(run: Path) -> dict:
    """Eight responses that part again and again, a question of many lines, and a clip."""
    responses = [
        [*range(2, 14), *(20 + k * (depth + 1) for depth in range(k)), len(LONG) - 1, LONG.index("<|im_end|>")]
        for k in range(8)
    ]
    surprisal = [[0.5 + (7 * n + k) % 5 for n in range(len(own))] for k, own in enumerate(responses)]
    soundfile.write(run / "clip.wav", np.sin(np.arange(16000) / 9) / 3, 16000)
    changes = {"question": [*range(2, 90)], "audio": [run / "clip.wav"], "reference": "".join(LONG[2:12])}
    return traced_prompt(responses, surprisal, [k / 8 for k in range(8)], LONG, fork_budget=4, **changes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window(show, tmp_path, width, scheme):
    """A screenshot of each is left in the test's folder."""
    (tmp_path / "run").mkdir()
    prompt = long_prompt(tmp_path / "run")
    traces = {10: [prompt] * 12, **{step: [prompt] for step in range(20, 130, 10)}}
    page = show(traces, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.screenshot(path=tmp_path / f"{width}_{scheme}.png")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    first = page.locator(".edge").first.bounding_box()
    assert first["y"] < 400 and first["x"] < width / 2, "the tree begins in the upper half"
    more = page.locator(".more")
    assert more.count() == (width == 1280), "a tree that continues says so; on a phone it grows downwards"
    if width == 1280:
        page.locator(".scroll").evaluate("node => node.scrollTo(1e6, 0)")
        expect(more).to_have_count(0)
    for item in page.locator(ITEM).all():
        item.focus()
        box, row = (page.locator(each).first.bounding_box() for each in (".details", ".details tbody tr"))
        assert box["y"] + box["height"] <= 801, "the numbers are in the window"
        assert (
            row["x"] + row["width"] <= box["x"] + box["width"] and row["y"] + row["height"] <= box["y"] + box["height"]
        )
    prompt = page.locator(".one .text")
    assert prompt.bounding_box()["height"] < 30
    page.get_by_role("button", name="characters").first.click()
    assert prompt.bounding_box()["height"] > 40


def test_the_pages_picture_is_of_this_page(show, tmp_path):
    """The picture of a README names what it was taken of. If that has changed, this test takes it anew, and fails once."""
    trace = Path(__file__).with_name("step_000020.jsonl")  # of a quick start
    sources = [*sorted(PAGE.glob("page.*")), trace]
    digest = hashlib.sha256(b"".join(map(Path.read_bytes, sources)) + " ".join(ESTIMATORS).encode()).hexdigest()
    if PICTURE.exists() and Image.open(PICTURE).info.get("Source") == digest:
        return
    _, *prompts = map(json.loads, trace.read_text(encoding="utf-8").splitlines())
    (tmp_path / "run/traces").mkdir(parents=True)
    for prompt in prompts:
        soundfile.write(tmp_path / "run/traces" / prompt["audio"][0], np.zeros(32_000), 16_000)
    page = show({20: prompts}, viewport={"width": 1480, "height": 900})
    page.locator(ITEM).nth(2).focus()
    taken = Image.open(io.BytesIO(page.screenshot())).convert("P", palette=Image.Palette.ADAPTIVE)
    source = PngImagePlugin.PngInfo()
    source.add_text("Source", digest)
    taken.save(PICTURE, pnginfo=source, optimize=True)
    pytest.fail(f"{PICTURE} was of another page. It has been taken anew: look at it, and commit it")


def test_tokens_that_end_a_text_are_dimmed(show):
    pieces = [*PIECES, "<|im_end|>"]
    responses = [[5, 10, 6, 10], [5, 10, 7, 8]]  # in the middle of a text it is text
    page = show({1: [traced_prompt(responses, [[0.1] * 4] * 2, [1.0, 0.0], pieces, fork_budget=0)]})
    assert page.locator(".edge .end").all_inner_texts() == ["<|im_end|>"]
    assert page.locator(".edge .text").all_inner_texts() == [" zwei<|im_end|>", " Hunde<|im_end|>", " schlafen im"]
    assert page.locator(".response .end").count() == 1


def test_text_is_data(show):
    pieces = [*PIECES, EVIL]
    evil = len(pieces) - 1
    responses = [[*tokens[:4], evil] for tokens in WORKED["responses"]]
    prompt = traced_prompt(**{**WORKED, "responses": responses, "pieces": pieces}, question=[evil], reference=EVIL)
    prompt["data_source"] = EVIL
    prompt["audio"] = [EVIL.replace("\x00", "")]
    page = show({10: [prompt]})
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    shown = [text.text_content() for text in page.locator("dl.about .text").all()]
    assert shown[1:] == [EVIL] * 3  # prompt, reference, data source; before them the name of the clip
    assert page.locator(".edge .text").last.text_content() == " drei im" + EVIL


@pytest.mark.parametrize("text", ["הכלבים ישנים בגן", "الكلاب تنام في الحديقة", "二匹の犬が寝る", "कुत्ते सो रहे हैं"])
def test_scripts_are_kept_whole(show, text):
    """A piece a character; letters that join must not be torn apart by elements of their own."""
    pieces = ["<unk>", *dict.fromkeys(text)]
    tokens = [pieces.index(letter) for letter in text]
    responses = [tokens, [*tokens[:-1], 0]]
    page = show({1: [traced_prompt(responses, [[0.1] * len(tokens)] * 2, [1.0, 0.0], pieces, fork_budget=0)]})
    stem = page.locator(".edge .text").first
    assert stem.text_content() == text[:-1]
    assert stem.locator("span").count() == 1
    direction = stem.evaluate("node => getComputedStyle(node).direction")
    assert direction == ("rtl" if text[0] in "הا" else "ltr")


def test_pieces_that_are_no_whole_characters(show):
    pieces = ["<unk>", "", "", "犬", "猫"]
    prompt = traced_prompt([[1, 2, 3], [1, 2, 4]], [[0, 0, 1.0]] * 2, [1.0, 0.0], pieces)
    page = show({1: [prompt]})
    assert page.locator(".edge .text").all_inner_texts() == ["⟨part of a character⟩", "犬", "猫"]


def test_boundaries_that_did_not_fire_are_marked(show):
    responses = [[1, 2, 3, 4], [5, 6, 7, 8]]
    page = show({1: [traced_prompt(responses, [[0, 0, 5.0, 0], [0, 0, 0, 0]], [1.0, 0.0], PIECES, fork_budget=1)]})
    assert page.locator(".edge .mark").count() == 1
    assert page.locator(".edge .text").first.text_content() == ".!◇ drei alte"
    assert "token 2 ◇ did not fire (put there by #1)" in page.locator("main").inner_text()


def test_long_branches_fold(show):
    page = show({1: [traced_prompt([[5] * 200, [6] * 200], [[1.0] * 200] * 2, [1.0, 0.0], PIECES)]})
    text = page.locator(".edge .text").first
    folded = text.bounding_box()["height"]
    page.locator(ITEM).first.focus()
    page.keyboard.press("Enter")
    assert text.bounding_box()["height"] > 3 * folded


def test_audio_can_be_heard(show, tmp_path):
    (tmp_path / "run").mkdir()
    soundfile.write(tmp_path / "run/clip.wav", np.sin(np.arange(32000) / 9) / 3, 16000)
    page = show({1: [worked(audio=[tmp_path / "run/clip.wav", tmp_path / "run/lost.wav"])]})
    load = "node => new Promise(done => { node.onloadedmetadata = () => done(node.duration); node.load(); })"
    assert page.locator("audio").first.evaluate(load) == pytest.approx(2.0, abs=0.2)
    assert "lost.wav: no such file" in page.locator("main").inner_text()


def test_nothing_is_read_outside_of_the_run(tmp_path, capsys):
    """Neither by an absolute path, nor by one with .., nor through a link; --audio takes a folder in."""
    (run := tmp_path / "run" / "traces").mkdir(parents=True)
    (private := tmp_path / "private").mkdir()
    for file in (run / "own.wav", private / "memo.wav"):
        soundfile.write(file, np.sin(np.arange(1600) / 9) / 3, 16000)
    (run / "link.wav").symlink_to(private / "memo.wav")
    (run / "loop.wav").symlink_to("loop.wav")
    paths = [
        "own.wav",
        private / "memo.wav",
        "../../private/memo.wav",
        f"file://{private}/memo.wav",
        "link.wav",
        "loop.wav",
    ]
    file = write_trace(run, 1, [worked(audio=paths)])
    (run / "step_000002.jsonl").symlink_to(private / "memo.wav")
    os.mkfifo(run / "step_000003.jsonl")  # reading it would wait for ever

    def clips(*options: str) -> list[str]:
        assert main(["tree", str(tmp_path / "run"), "--out", str(tmp_path / "tree.html"), *options]) == 0
        page = (tmp_path / "tree.html").read_text()
        data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
        return ["url" if "url" in clip else clip["note"] for clip in data["clips"]]

    assert clips()[:5] == ["url", *[build.OUTSIDE] * 4]
    said = capsys.readouterr().out
    assert "4 clips outside of the run's folder (--audio FOLDER includes it)" in said
    assert "step_000002.jsonl: this is a link to a file outside of the folder" in said
    assert clips("--audio", str(private))[:5] == ["url"] * 5
    file.unlink()
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/traces").symlink_to(run)
    assert main(["tree", str(tmp_path / "sent")]) == 2
    assert "outside of" in capsys.readouterr().err


def test_what_is_left_out_and_skipped_is_said(show, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PROMPTS", 1)
    monkeypatch.setattr(build, "STEPS", 2)
    traces = tmp_path / "run" / "traces"
    write_trace(traces, 1, [worked()])
    write_trace(traces, 2, [worked(), worked()])
    with open(write_trace(traces, 3, [worked()]), "a") as file:
        file.write('{"prompt": 1}\n{"prompt": "cut o')
    page = show({})
    notes = " ".join(page.locator(".notes").all_inner_texts())
    assert "Left out: 1 of 3 traced steps" in notes
    assert "step_000003.jsonl: its last line is incomplete" in notes
    assert "step_000003.jsonl, line 3: prompt: " in notes


def test_a_large_run_stays_a_few_megabytes(tmp_path):
    generator = np.random.default_rng(0)
    words = [f" w{number:04d}" for number in range(2000)]
    noise = generator.normal(size=20 * 16000) / 9
    for clip in range(12):
        soundfile.write(tmp_path / f"{clip}.wav", np.roll(noise, clip), 16000)
    for step in range(0, 120, 10):
        prompts = []
        for clip in range(12):
            responses = generator.integers(0, 2000, (8, 200)).tolist()
            surprisal = generator.exponential(size=(8, 200)).tolist()
            audio = [tmp_path / f"{(step + clip) % 12}.wav"]
            prompts.append(traced_prompt(responses, surprisal, generator.random(8).tolist(), words, audio=audio))
        write_trace(tmp_path / "traces", step, prompts)
    output = SimpleNamespace(lines=[])
    console = Console(width=200, file=SimpleNamespace(write=output.lines.append, flush=lambda: None))
    write_tree(tmp_path, tmp_path / "tree.html", None, console)
    assert (tmp_path / "tree.html").stat().st_size < 7_500_000
    assert "144 trees of 12 steps" in "".join(output.lines)


def test_wanted_steps(tmp_path):
    for step in (1, 2):
        write_trace(tmp_path, step, [worked()])
    write_tree(tmp_path, tmp_path / "tree.html", [2], Console(quiet=True))
    page = (tmp_path / "tree.html").read_text()
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert [step["step"] for step in data["steps"]] == [2]
    with pytest.raises(ValueError, match="no trace of step 3. The traced steps are 1, 2"):
        write_tree(tmp_path, tmp_path / "tree.html", [3], Console(quiet=True))
