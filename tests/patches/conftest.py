"""What tests of patches need: a real TransferQueue, and a verl that needs the patch."""

import pytest

from tests.helpers.patches import stands_down


@pytest.fixture
def needed(request):
    """Skips a test of what a patch does where the installed verl does it (tests/versions/with_series.sh)."""
    name = request.module.__name__.rpartition(".test_")[2]
    if stands_down(name):
        pytest.skip(f"{name} is solved upstream")


@pytest.fixture(scope="session")
def queue():
    """verl's TransferQueue, in a Ray of its own."""
    import ray
    import transfer_queue
    import verl  # noqa: F401  (connects the plugin before Ray starts)

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    transfer_queue.init()
    yield transfer_queue
    transfer_queue.close()
    ray.shutdown()
