"""The drawn tree is the responses, and agrees with LEAF's spans."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.traced import PIECES, WORKED, traced_prompt
from verl_leaf.show.tree_page.trie import prefix_trie, span_at
from verl_leaf.training.traces.schema import Prompt


def walk(edges, path=()):
    for edge in edges:
        yield edge, (*path, edge)
        yield from walk(edge.children, (*path, edge))


def test_the_worked_example():
    prompt = Prompt.model_validate(traced_prompt(**WORKED))
    edges = {(edge.start, edge.end, tuple(edge.responses)): edge for edge, _ in walk(prefix_trie(prompt))}
    assert list(edges) == [
        (0, 2, (0, 1, 2, 3)),
        (2, 3, (0, 1, 3)),
        (3, 4, (0, 3)),
        (4, 5, (0,)),
        (4, 5, (3,)),
        (3, 5, (1,)),
        (2, 5, (2,)),
    ]
    assert [edge.node for edge in edges.values()] == [0, None, 1, None, None, None, None]
    assert prompt.nodes[1].value == pytest.approx(0.9)
    assert [edge.ends for edge in edges.values() if edge.ends] == [[0], [3], [1], [2]]
    # Responses 0 and 3 are still one span where response 1 leaves them.
    shared = edges[2, 3, (0, 1, 3)]
    assert span_at(prompt, 0, shared).advantage == pytest.approx(0.9063, abs=1e-4)
    assert span_at(prompt, 1, shared).advantage == pytest.approx(-0.3706, abs=1e-4)


def test_identical_responses_end_together():
    prompt = Prompt.model_validate(
        traced_prompt([[1, 2], [1, 2], [1, 2, 3, 4, 5]], [[0, 1.0]] * 2 + [[0, 0, 0, 2.0, 0]], [1.0, 0.0, 0.5], PIECES)
    )
    edges = [edge for edge, _ in walk(prefix_trie(prompt))]
    assert [edge.ends for edge in edges if edge.ends] == [[0, 1], [2]]


groups = st.integers(1, 6).flatmap(
    lambda count: st.tuples(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=count, max_size=count),
        st.lists(st.lists(st.floats(0, 9), min_size=7, max_size=7), min_size=count, max_size=count),
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=count, max_size=count),
        st.integers(0, 3),
    )
)


@settings(max_examples=300, deadline=None)
@given(groups)
def test_paths_spell_the_responses_and_stay_in_their_spans(group):
    responses, surprisal, rewards, budget = group
    surprisal = [nats[: len(tokens)] for nats, tokens in zip(surprisal, responses, strict=True)]
    prompt = Prompt.model_validate(traced_prompt(responses, surprisal, rewards, PIECES, fork_budget=budget))
    ended = []
    for edge, path in walk(prefix_trie(prompt)):
        assert edge.start == (path[-2].end if len(path) > 1 else 0)
        for index in edge.responses:
            assert span_at(prompt, index, edge) is not None
        for index in edge.ends:
            ended.append(index)
            assert [token for e in path for token in responses[index][e.start : e.end]] == responses[index]
        # No two edges that leave the same place begin with the same token.
        firsts = [responses[child.responses[0]][child.start] for child in edge.children]
        assert len(set(firsts)) == len(firsts)
        if edge.node is not None:
            assert prompt.nodes[edge.node].responses == edge.responses
    assert sorted(ended) == list(range(len(responses)))
