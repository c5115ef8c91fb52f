"""Files are complete or not there."""

import errno
import os
import stat

import pytest
from rejuvenet.files import check_writable, write_bytes, write_text, written_beside


def write_half(path, error):
    with written_beside(path) as beside:
        beside.write_bytes(b"half")
        raise error


def test_writes_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "ä")
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half(path, RuntimeError("stop"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_disk_full_is_one_sentence_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space left") as caught:
        write_half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith(f"Cannot write {path}: ")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_missing_folder_and_folder_as_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_bytes(tmp_path / "no" / "a", b"")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        write_bytes(tmp_path, b"")


def test_devices_are_not_replaced():
    with pytest.raises(OSError, match="not a regular file"):
        write_bytes("/dev/null", b"")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_permission_is_asked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no permission"):
        check_writable(tmp_path / "a")


def test_links_stay_links_and_modes_stay(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
