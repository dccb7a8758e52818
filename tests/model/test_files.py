"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from geotempo.model.checkpoints import write_folder
from geotempo.model.files import write_atomic, write_text


def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "old\n")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "new" / "a.txt", fail)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"old\n"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", lambda folder: (folder / "one").write_text("1") and None)
    write_folder(tmp_path / "model", lambda folder: (folder / "two").write_text("2") and None)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["two"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", lambda folder: (folder / "one").write_text("1") and None)

    def fail(folder: Path) -> None:
        (folder / "two").write_text("2")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "model", fail)
    assert (tmp_path / "model" / "one").read_text() == "1"
