"""Files are whole or absent."""

import errno
import hashlib
from pathlib import Path

import pytest

from compressor.errors import InputRejected
from compressor.files import replacing, sha256, write_text


def half_written(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() or path.read_text() == "old"
        raise error


def test_a_finished_file_has_its_content_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "new")

    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_an_error_on_the_way_keeps_the_old_content_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    with pytest.raises(ZeroDivisionError):
        half_written(path, ZeroDivisionError())

    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_full_or_read_only_disk_is_one_sentence_and_loses_nothing(tmp_path, code, words):
    path = tmp_path / "a.txt"
    path.write_text("old")

    with pytest.raises(InputRejected, match=words) as caught:
        half_written(path, OSError(code, "as the system says"))

    assert caught.value.exit_code == 4
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_what_stands_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()

    for path, words in [("folder", "it is a folder"), ("file/a.txt", "is a file"), ("file/b/a.txt", "is a file")]:
        with pytest.raises(InputRejected, match=f"cannot write .*{path}: .*{words}"):
            write_text(tmp_path / path, "new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_what_the_system_itself_raises_is_recognised(tmp_path):
    with pytest.raises(OSError, match="No space left") as full, Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")

    with pytest.raises(InputRejected, match="the disk is full"):
        half_written(tmp_path / "a.txt", full.value)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)

    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
