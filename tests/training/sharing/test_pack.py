"""A packed row gives every response token what the response's own pass gives it: log-probability and gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.masking_utils import find_packed_sequence_indices

from tests.helpers.tiny_llama import tiny_llama
from verl_leaf.models.shapes import padded_length
from verl_leaf.training.sharing.pack import pack

VOCABULARY = 11


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_llama(VOCABULARY)


def attention_mask(packed):
    mask = packed.attention_mask("cpu")
    return None if mask is None else mask[:, None]


tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=5)
batches = st.lists(
    st.tuples(st.sampled_from([(1, 2, 3), (1, 2), (1, 2, 3, 4, 5, 6), (7,)]), tokens, st.integers(0, 1)),
    min_size=1,
    max_size=7,
).filter(lambda batch: any(response for _, response, _ in batch))


@settings(deadline=None, max_examples=60)
@given(batches)
def test_log_probabilities_and_gradients_are_those_of_each_response_alone(model, batch):
    sequences = [np.array([*prompt, *response]) for prompt, response, _ in batch]
    lengths = [len(prompt) for prompt, *_ in batch]
    packed = pack(sequences, lengths, [root for *_, root in batch], pad=0)

    logits = model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, attention_mask=attention_mask(packed)
    ).logits
    values = logits.flatten(0, 1)[packed.logit_index].log_softmax(-1).gather(-1, packed.target_ids[:, None])[:, 0]
    total = sum(map(len, sequences))
    found = values.new_zeros(total).index_put((packed.target_index,), values)

    expected = []
    for sequence, length in zip(sequences, lengths, strict=True):
        ids = torch.from_numpy(sequence)[None]
        own = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        expected += [own.new_zeros(length - 1), own[length - 1 :], own.new_zeros(1)]
    expected = torch.cat(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    weight = torch.linspace(-1, 2, total, dtype=torch.float64)
    gradients = [torch.autograd.grad((weight * each).sum(), tuple(model.parameters())) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(batches)
def test_every_common_beginning_stands_once(batch):
    sequences = [np.array([*prompt, *response]) for prompt, response, _ in batch]
    packed = pack(sequences, [len(prompt) for prompt, *_ in batch], [root for *_, root in batch], pad=0)
    groups = {}
    for prompt, response, root in batch:
        sequence = (*prompt, *response)
        beginnings = groups.setdefault((root, prompt), set())
        beginnings |= {sequence[: end + 1] for end in range(len(sequence))}
    widest = max(map(len, groups.values()))
    assert packed.input_ids.shape == (len(groups), padded_length(widest))
    if packed.last is None:
        assert len(groups) == len(sequences)
        sizes = [len(sequences[first]) for first in packed.first]
    else:
        sizes = [int((row.sum(-1) > 1).sum()) + int(row[0, 0]) for row in packed.attention_mask("cpu")]
    assert sizes == [len(beginnings) for beginnings in groups.values()]


def rows(packed, length):
    """The rows' first tokens; the rest is padding."""
    assert not packed.input_ids[:, length:].any()
    return packed.input_ids[:, :length].tolist()


def test_other_audio_shares_nothing():
    sequences = [np.array([1, 2, 3]), np.array([1, 2, 4])]
    assert rows(pack(sequences, [2, 2], ["one clip", "another"], pad=0), 3) == [[1, 2, 3], [1, 2, 4]]
    assert rows(pack(sequences, [2, 2], ["one clip", "one clip"], pad=0), 4) == [[1, 2, 3, 4]]


def test_padding_does_not_matter():
    sequences = [np.array([1, 2, 3, 4]), np.array([1, 5]), np.array([1, 6])]
    one, other = (pack(sequences, [1, 1, 1], ["a", "b", "b"], pad=pad) for pad in (0, 9))
    assert rows(one, 4) == [[1, 2, 3, 4], [1, 5, 6, 0]] and other.input_ids[1, 3:].eq(9).all()
    masks = [each.attention_mask("cpu") for each in (one, other)]
    assert torch.equal(*masks) and masks[0].any(-1).all()


@pytest.mark.parametrize("length, width", [(1, 8), (64, 64), (65, 72), (131, 144)])
def test_widths_are_few(length, width):
    sequences = [np.arange(length), np.arange(length) + 1]
    assert pack(sequences, [1, 1], ["a", "b"], pad=0).input_ids.shape == (2, width)


def test_rows_that_share_nothing_need_no_mask():
    """And transformers builds none for them, which it would where positions jump."""
    packed = pack([np.arange(1, 9), np.arange(2, 5)], [2, 1], ["a", "b"], pad=0)
    assert packed.last is None and packed.attention_mask("cpu") is None
    assert find_packed_sequence_indices(packed.position_ids[:1]) is None
    assert find_packed_sequence_indices(packed.position_ids[1:]) is None
