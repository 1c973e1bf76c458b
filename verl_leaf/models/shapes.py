"""Lengths to which tensors are padded, so that kernels and plans are needed for only a few shapes."""


def padded_length(length: int) -> int:
    """Return a length rounded up to a multiple of 8; above 128, to one of eight sizes per power of two (12.5 % at most)."""
    step = max(8, 2 ** (length - 1).bit_length() // 16)
    return -(-length // step) * step
