"""Rows on disk, or one line that says why there is no room for them."""

import resource
import signal

import numpy as np
import pytest

from verl_leaf.data.store import RowStore

MIB = 2**20


@pytest.fixture
def small_disk():
    """Writes fail after 1 MiB of a file, as on a full disk or over a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_rows_come_back_as_they_were(tmp_path):
    store = RowStore(str(tmp_path / "new/cache"), MIB)
    rows = [{"number": number, "audio": bytes(number)} for number in range(100)]
    for row in rows:
        store.append(row)
    assert [store[number] for number in range(len(store))] == rows
    assert store.select(np.array([7, 3]))[0] == rows[7]


def fill(store: RowStore) -> None:
    for _ in range(40):
        store.append({"audio": bytes(MIB // 16)})


def test_a_disk_that_fills_up_is_named_with_the_setting(tmp_path, small_disk):
    store = RowStore(str(tmp_path), 2 * MIB)
    with pytest.raises(
        ValueError, match=rf"data.cache_dir={tmp_path} .*: File too large. They need about 2.0 MiB"
    ) as error:
        fill(store)
    assert "\n" not in str(error.value)


def test_rows_that_have_no_room_are_not_begun(tmp_path):
    with pytest.raises(
        ValueError, match="No space left on device. They need about 1,000,000,000.0 MiB, and the disk has"
    ):
        RowStore(str(tmp_path), 10**9 * MIB)
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=f"data.cache_dir={tmp_path}/file/cache cannot store the rows: Not a directory"
    ):
        RowStore(str(tmp_path / "file/cache"), 0)
