from verl_leaf.models.shapes import padded_length


def test_little_is_added_and_shapes_are_few():
    padded = {length: padded_length(length) for length in range(1, 4097)}
    assert all(0 <= more - length < max(8, length / 8) for length, more in padded.items())
    assert all(more % 8 == 0 and padded_length(more) == more for more in padded.values())
    for start in (128, 256, 512, 1024, 2048):
        assert len({more for length, more in padded.items() if start < length <= 2 * start}) == 8
