"""Clips within responses: packed rows give each token what its own response's pass gives it, whatever clips the others have."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tiny_llama import tiny_llama
from verl_leaf.training.sharing.audio import Marks
from verl_leaf.training.sharing.pack import pack

VOCABULARY, AUDIO = 8, 7
torch.manual_seed(0)
MODEL = tiny_llama(VOCABULARY)
# The audio of a key: the embeddings of its placeholders, of one clip of 1 to 3 tokens, or of two clips.
LENGTHS = {1: [2], 2: [2], 3: [1], 4: [3, 1], 5: [3, 2]}
HEARD = {key: torch.randn(sum(lengths), 16, dtype=torch.float64) for key, lengths in LENGTHS.items()}
PROMPTS, LATER = (0, 1, 4, 5), (1, 2, 3)  # 0: no audio


def key(number: int) -> bytes:
    return bytes([number] * 16)


def placeholders(number: int) -> list[int]:
    return [token for length in LENGTHS.get(number, ()) for token in [*[AUDIO] * length, 6]]


words = st.lists(st.integers(1, 3), max_size=2)
turns = st.lists(st.tuples(words, st.sampled_from(LATER)), max_size=2)
batches = st.lists(st.tuples(st.sampled_from(PROMPTS), turns, words), min_size=1, max_size=6)


def log_probs(ids, keys, **inputs):
    embeddings = MODEL.get_input_embeddings()(ids)
    if keys:
        embeddings[ids == AUDIO] = torch.cat([HEARD[each] for each in keys])
    logits = MODEL(inputs_embeds=embeddings, **inputs).logits
    return logits.log_softmax(-1)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_log_probabilities_are_those_of_each_response_alone(batch):
    rows = []
    for prompt, turns, end in batch:
        response = [token for said, clip in turns for token in [*said, *placeholders(clip)]]
        own = [*([prompt] if prompt else []), *(clip for _, clip in turns)]
        rows.append(([4, *placeholders(prompt), 5], [*response, *end, 1], own))
    marks = Marks(AUDIO)
    sequences = [np.array([*prompt, *response]) for prompt, response, _ in rows]
    lengths = [len(prompt) for prompt, *_ in rows]
    marked = [
        marks.mark(sequence, length, [key(each) for each in own])
        for sequence, length, (*_, own) in zip(sequences, lengths, rows, strict=True)
    ]
    packed = pack(marked, lengths, [None] * len(rows), pad=0)
    assert len(packed.input_ids) == len({prompt for prompt, *_ in batch})
    mask, keys = packed.attention_mask("cpu"), [row[0] for row in marks.keys(packed.input_ids).tolist()]
    ids = marks.tokens(packed.input_ids)
    found = log_probs(
        ids, keys, position_ids=packed.position_ids, attention_mask=None if mask is None else mask[:, None]
    ).flatten(0, 1)[packed.logit_index]
    found = found.gather(-1, marks.tokens(packed.target_ids)[:, None])[packed.target_index.argsort(), 0]
    expected = [
        log_probs(torch.from_numpy(sequence)[None], own)[0, :-1].gather(-1, torch.from_numpy(sequence)[1:, None])[
            length - 1 :, 0
        ]
        for sequence, length, (*_, own) in zip(sequences, lengths, rows, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)


def test_what_has_the_same_clip_is_shared():
    marks = Marks(AUDIO)
    same, other = (
        [marks.mark(np.array([4, 5, *said, AUDIO, AUDIO, 6, 1]), 2, [key(clip)]) for said, clip in rows]
        for rows in ([([2], 1), ([2], 1)], [([2], 1), ([2], 2)])
    )
    one, two = (pack(rows, [2, 2], [None] * 2, pad=0) for rows in (same, other))
    assert [int((each.input_ids < 0).sum()) for each in (one, two)] == [2, 4]
    assert [len(marks.keys(each.input_ids)) for each in (one, two)] == [1, 2]
