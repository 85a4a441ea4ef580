"""Files that are written whole or not at all, and folders that one run holds."""

import json
import multiprocessing
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from shared.files import (
    LOCK,
    holding,
    locked,
    refuse_inputs,
    remove_leftovers,
    replacing,
    replacing_together,
    write_json,
)
from shared.program import UserError


@pytest.mark.attack("15.1", "an output is a symbolic link")
def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "kept" / "real.json", tmp_path / "link.json"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, 1)
    assert link.is_symlink()
    assert target.read_text() == "1\n"


def test_a_link_that_leads_nowhere_yet_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "later.json")
    write_json(link, 1)
    assert (tmp_path / "later.json").read_text() == "1\n"


def test_numbers_that_json_lacks_are_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "found.json", {"value": float("nan"), "by_fold": (1.5, float("-inf"))})
    assert json.loads((tmp_path / "found.json").read_text()) == {"value": None, "by_fold": [1.5, None]}


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "private.json"
    path.write_text("old")
    path.chmod(0o600)
    write_json(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.attack("15.1", "an output is a pipe")
def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, 1)
    reader.join()
    assert read == ["1\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.attack("15.1", "an output is a device")
def test_a_device_stays_a_device() -> None:
    with replacing(Path("/dev/null")) as file:
        file.write(b"nothing")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_json(path, 1)
    assert path.read_text() == "1\n"


def test_a_failure_leaves_what_was_there_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"half")
            os.fsync(999_999)  # fails as a full disk does, without a name

    with pytest.raises(OSError, match=r"kept\.json"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.attack("15.1", "the folder of an output cannot be written to")
def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write_json(tmp_path / "missing" / "new.json", 1)
    assert missing.value.filename == str(tmp_path / "missing" / "new.json")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source), None, str(target))

    monkeypatch.setattr("shared.files.os.replace", refuse)
    with pytest.raises(PermissionError) as refused:
        write_json(tmp_path / "new.json", 1)
    assert str(refused.value) == f"[Errno 13] Permission denied: '{tmp_path / 'new.json'}'"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_a_result_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scores.json").mkdir()
    with (
        pytest.raises(IsADirectoryError, match=r"scores\.json"),
        holding("train", tmp_path, ("scores.json",), overwrite=True),
    ):
        pass
    monkeypatch.setattr("shared.files.os.access", lambda path, mode: path != tmp_path / "new")
    with (
        pytest.raises(PermissionError, match=r"new/scores\.json"),
        holding("train", tmp_path / "new", ("scores.json",), overwrite=False),
    ):
        pass


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / ".notes.tmp"
    mine.touch()
    (tmp_path / ".0123456789abcdef.tmp").touch()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.attack("15.1", "an output is a file that is read")
def test_an_output_that_is_an_input_is_refused_by_any_name(tmp_path: Path) -> None:
    image, link = tmp_path / "face.jpg", tmp_path / "link.jpg"
    image.touch()
    link.symlink_to(image)
    refuse_inputs("predict", "--output", tmp_path / "new.jpg", [image])
    for output in (image, link, tmp_path / ".." / tmp_path.name / "face.jpg"):
        with pytest.raises(UserError, match=r"^predict: --output must not be an input file, got .*, which is "):
            refuse_inputs("predict", "--output", output, [image])
    (tmp_path / "a" / "b").mkdir(parents=True)
    image.rename(tmp_path / "a" / "b" / "face.jpg")
    refuse_inputs("predict", "--output", tmp_path / "a" / "new.jpg", [tmp_path / "a"])
    with pytest.raises(UserError, match=r"^predict: --output must not be an input file, got .*, which is "):
        refuse_inputs("predict", "--output", tmp_path / "a" / "b" / "face.jpg", [tmp_path / "a"])


def hold(path: Path, started: "multiprocessing.synchronize.Event") -> None:
    with locked(path):
        started.set()
        threading.Event().wait()


@pytest.mark.attack("15.2", "a second process wants the lock of a folder")
def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=hold, args=(tmp_path / LOCK, started), daemon=True)
    process.start()
    assert started.wait(60)
    with locked(tmp_path / LOCK) as ours:
        assert not ours
    with (
        pytest.raises(UserError, match=r"^train: the output folder must be free, got .*, where another run is working"),
        holding("train", tmp_path, ("scores.json",), overwrite=True),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path / LOCK) as ours:
        assert ours
    with holding("train", tmp_path, ("scores.json",), overwrite=False):
        pass


def test_files_that_belong_together_are_all_replaced_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"old")
    with suppress(KeyboardInterrupt), replacing_together(first, second) as files:
        files[0].write(b"new")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}
    with replacing_together(first, second) as files:
        for file in files:
            file.write(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}
