"""The responses to a prompt as one tree: shared tokens occur once, and the tree forks where responses part."""

from dataclasses import dataclass, field

from verl_leaf.training.traces.schema import Prompt, Span


@dataclass
class Edge:
    """The tokens ``start .. end`` that ``responses`` share until they part, end, or reach a LEAF node."""

    start: int
    end: int  # position after the last token; equal to `start` if a response ends at a fork
    responses: list[int]  # indices of the responses that share these tokens
    node: int | None = None  # index in the trace's `nodes` of the node at its end, or None
    ends: list[int] = field(default_factory=list)  # indices of the responses that end here
    # Edges that continue from here, in the order of their first response.
    children: list["Edge"] = field(default_factory=list)


def prefix_trie(prompt: Prompt) -> list[Edge]:
    """Return the edges that leave the prompt.

    Every path from the prompt to an entry of ``ends`` spells that response. An edge lies in one span of each of its
    responses.
    """
    return _children(prompt, list(range(len(prompt.responses))), 0)


def _children(prompt: Prompt, responses: list[int], start: int) -> list[Edge]:
    families: dict[tuple[int, ...], list[int]] = {}
    for index in responses:
        families.setdefault(tuple(prompt.responses[index].tokens[start : start + 1]), []).append(index)
    return [_edge(prompt, family, start) for family in families.values()]


def _edge(prompt: Prompt, responses: list[int], start: int) -> Edge:
    sequences = [prompt.responses[index].tokens for index in responses]
    end = start
    while all(len(tokens) > end and tokens[end] == sequences[0][end] for tokens in sequences):
        end += 1
    # A node may lie past the end of its responses if they are identical.
    identical = all(len(tokens) == end for tokens in sequences)
    nodes = [
        (position, number)
        for number, node in enumerate(prompt.nodes)
        if node.responses == responses
        and start < (position := prompt.boundaries[node.boundary].position)
        and (position <= end or identical)
    ]
    position, node = min(nodes, default=(end, None))
    end = min(position, end)
    ends = [index for index, tokens in zip(responses, sequences, strict=True) if len(tokens) == end]
    onward = [index for index in responses if index not in ends]
    return Edge(start, end, responses, node, ends, _children(prompt, onward, end) if onward else [])


def span_at(prompt: Prompt, response: int, edge: Edge) -> Span | None:
    """Return the span of a response that contains an edge, or None for an edge without tokens."""
    spans = prompt.responses[response].spans if edge.start < edge.end else []
    return next((span for span in spans if span.start <= edge.start and edge.end <= span.end), None)
