"""What tests of patches need: a real TransferQueue."""

import pytest


@pytest.fixture(scope="session")
def queue():
    """verl's TransferQueue, in a Ray of its own."""
    import ray
    import transfer_queue
    import verl  # noqa: F401  (connects the plugin before Ray starts)

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    transfer_queue.init()
    yield transfer_queue
    transfer_queue.close()
    ray.shutdown()
