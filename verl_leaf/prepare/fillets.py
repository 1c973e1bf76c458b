"""Fish Fillets: Czech or Dutch actors' speech, translated into English or German, from Debian's packages fillets-ng-data*.

Two fish talk in every scene. In Czech, other characters talk in some scenes. Their lines are for validation and test;
scenes that share a speaker go into the same split. The fish's lines in the remaining scenes are for training. In Dutch,
the big fish is for training and the small one for validation and test, and a hash of the scene chooses the split. So
training shares no scene and, as far as the script names speakers, no speaker with the other splits. All other lines are
left out.
"""

import re
from collections import defaultdict
from pathlib import Path

from verl_leaf.prepare.corpus import TEST, TRAIN, VALIDATION, Corpus, Item, Rejected, Segment, hashed_split, need
from verl_leaf.prepare.covost2 import LANGUAGES, PHRASINGS
from verl_leaf.prepare.tables import read_lines

HELP = "Fish Fillets (Debian): Czech or Dutch speech translation"
LICENCE = "GPL-2, as the packages state; they do not mention the voices"
VOICES = {"cs": "Czech", "nl": "Dutch"}
FISH = BIG, _ = ("font_big", "font_small")
MAX_SECONDS = 30.0  # Whisper's window
OTHERS = 5  # a scene with this many lines of others is not for training
STRING = r'"((?:[^"\\]|\\.)*)"'
LINE = re.compile(rf"dialogId\({STRING},\s*{STRING},\s*{STRING}\)(?:\s*dialogStr\({STRING}\))?")


def add_arguments(parser) -> None:
    add = parser.add_argument
    add("--voices", choices=VOICES, default="cs", help="language of the speech (default: %(default)s)")
    add("--answers", choices=("en", "de"), default="en", help="language of the answers (default: %(default)s)")
    add(
        "--game",
        type=Path,
        default=Path("/usr/share/games/fillets-ng"),
        help="folder of the game (default: %(default)s)",
    )


def read(options) -> Corpus:
    need(options.game / "sound", "the sounds of Debian's packages fillets-ng-data-cs and fillets-ng-data-nl")
    need(options.game / "script", "the texts of Debian's package fillets-ng-data")
    print(f"Fish Fillets: {LICENCE}")
    clips = sorted(options.game.glob(f"sound/*/{options.voices}/*.ogg"))
    if not clips:
        raise ValueError(f"{options.game}/sound contains no {options.voices}. Install fillets-ng-data-{options.voices}")
    names = {"source": VOICES[options.voices], "target": LANGUAGES[options.answers]}
    corpus = Corpus(
        f"fillets_{options.voices}_{options.answers}",
        tuple(text.format(**names) for text in PHRASINGS),
        max_seconds=MAX_SECONDS,
        one_phrasing=(VALIDATION, TEST),
    )
    texts = {scene: _texts(options.game / "script" / scene, options) for scene in {clip.parts[-3] for clip in clips}}
    splits = _splits([(clip.parts[-3], texts[clip.parts[-3]].get(clip.stem, ("",))[0]) for clip in clips])
    trained = FISH if options.voices == "cs" else (BIG,)
    for clip in clips:
        scene = clip.parts[-3]
        speaker, english, answer = texts[scene].get(clip.stem, ("", "", ""))
        split, id = splits[scene], f"{scene}/{clip.stem}"
        if not answer:
            corpus.add(Rejected(id, str(clip), f"it has no text in {names['target']}"))
        elif not speaker or (speaker in trained) != (split == TRAIN):
            whose = f"but its speaker, {speaker}, is for another split" if speaker else "but its speaker is unknown"
            corpus.add(Rejected(id, str(clip), f"its scene is for {split}, {whose}"))
        else:
            audio = (Segment(str(clip)),)
            corpus.add(Item(id, split, (audio,), (answer,), phrase_by=english, source=str(clip)))
    return corpus


def _texts(folder: Path, options) -> dict[str, tuple[str, str, str]]:
    """Return speaker, English text and answer of each line of a scene."""
    texts = {}
    for language in dict.fromkeys((options.voices, options.answers)):
        file = folder / f"dialogs_{language}.lua"
        for id, speaker, english, translated in LINE.findall("".join(read_lines(file)) if file.exists() else ""):
            answer = english if options.answers == "en" else translated if language == options.answers else ""
            if answer or id not in texts:
                texts[id] = speaker, *(re.sub(r"\\(.)", r"\1", text).strip() for text in (english, answer))
    return texts


def _splits(spoken: list[tuple[str, str]]) -> dict[str, str]:
    """Return the split of each scene, given scene and speaker of each clip."""
    others: dict[str, list[str]] = defaultdict(list)
    for scene, speaker in spoken:
        others[scene] += [speaker] * (speaker not in FISH)
    groups: list[tuple[set[str], set[str]]] = []  # scenes, and their speakers except the fish
    for scene, speakers in sorted(others.items()):
        if len(speakers) >= OTHERS:
            group = {scene}, set(speakers) - {""}
            for other in [other for other in groups if other[1] & group[1]]:
                groups.remove(other)
                group = group[0] | other[0], group[1] | other[1]
            groups.append(group)
    if not groups:
        return {scene: hashed_split(scene, 0.2) for scene in others}
    splits, lines = dict.fromkeys(others, TRAIN), {VALIDATION: 0, TEST: 0}
    for scenes, _ in sorted(groups, key=lambda group: (-sum(len(others[scene]) for scene in group[0]), min(group[0]))):
        split = min(lines, key=lines.__getitem__)
        splits |= dict.fromkeys(scenes, split)
        lines[split] += sum(len(others[scene]) for scene in scenes)
    return splits
