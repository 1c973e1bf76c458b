"""A packed row gives every response token what the response's own pass gives it: log-probability and gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from verl_leaf.sharing.pack import pack

VOCABULARY = 11


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).double()


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

    logits = model(input_ids=packed.ids, position_ids=packed.positions, attention_mask=packed.mask[:, None]).logits
    values = logits.flatten(0, 1)[packed.seen_from].log_softmax(-1).gather(-1, packed.tokens[:, None])[:, 0]
    total = sum(map(len, sequences))
    found = values.new_zeros(total).index_put((packed.answers,), values)

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
    sizes = [int((row.sum(-1) > 1).sum()) + int(row[0, 0]) for row in packed.mask]
    assert packed.ids.shape == (len(groups), max(map(len, groups.values())))
    assert sizes == [len(beginnings) for beginnings in groups.values()]


def test_other_audio_shares_nothing():
    sequences = [np.array([1, 2, 3]), np.array([1, 2, 4])]
    assert pack(sequences, [2, 2], ["one clip", "another"], pad=0).ids.tolist() == [[1, 2, 3], [1, 2, 4]]
    assert pack(sequences, [2, 2], ["one clip", "one clip"], pad=0).ids.tolist() == [[1, 2, 3, 4]]


def test_padding_does_not_matter():
    sequences = [np.array([1, 2, 3, 4]), np.array([1, 5])]
    one, other = (pack(sequences, [1, 1], ["a", "b"], pad=pad) for pad in (0, 9))
    assert one.ids.tolist() == [[1, 2, 3, 4], [1, 5, 0, 0]] and other.ids.tolist() == [[1, 2, 3, 4], [1, 5, 9, 9]]
    assert torch.equal(one.mask, other.mask) and one.mask.any(-1).all()
