"""Lengths that tensors are padded to, so that what is chosen, built or planned per shape meets few of them."""


def padded_length(length: int) -> int:
    """A length rounded up to a multiple of 8, and from 128 on to one of eight per doubling: by less than an eighth."""
    step = max(8, 2 ** (length - 1).bit_length() // 16)
    return -(-length // step) * step
