"""Run folders: numbered, never written over, and the latest one is found."""

from pathlib import Path

import pytest

from compressor.errors import UsageError
from compressor.runs.folder import Run, create, find


def _finish(run: Run) -> Run:
    run.recipe.write_text("recipe: 1\n")
    return run


def test_runs_of_one_name_are_numbered_and_the_last_is_the_latest(tmp_path):
    first = _finish(create("bss", out=None, overwrite=False, root=tmp_path))
    second = _finish(create("bss", out=None, overwrite=False, root=tmp_path))

    assert (first.folder.name, second.folder.name) == ("bss-1", "bss-2")
    assert find(None, root=tmp_path) == second


def test_a_folder_given_by_name_becomes_the_latest_too(tmp_path):
    run = _finish(create("x", out=tmp_path / "elsewhere" / "mine", overwrite=False, root=tmp_path / "runs"))

    assert run.folder == tmp_path / "elsewhere" / "mine"
    assert find(None, root=tmp_path / "runs").folder.resolve() == run.folder.resolve()


def test_the_runs_folder_can_be_moved(tmp_path):
    _finish(create("bss", out=None, overwrite=False, root=tmp_path / "runs"))
    (tmp_path / "runs").rename(tmp_path / "moved")

    assert find(None, root=tmp_path / "moved").recipe.is_file()


def test_a_folder_that_holds_something_is_not_written_over_unless_asked(tmp_path):
    run = _finish(create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path / "runs"))
    run.exports.mkdir()
    (run.exports / "student.fp32.onnx").write_text("old")
    (run.folder / "notes.txt").write_text("the user's own")

    with pytest.raises(UsageError, match="is not empty") as caught:
        create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path / "runs")
    assert "--overwrite" in caught.value.hint
    assert run.recipe.is_file()

    create("x", out=tmp_path / "mine", overwrite=True, root=tmp_path / "runs")
    assert not run.recipe.exists()
    assert not (run.exports / "student.fp32.onnx").exists()
    assert (run.folder / "notes.txt").read_text() == "the user's own"


def test_no_run_yet_and_a_folder_that_is_none_are_said(tmp_path):
    with pytest.raises(UsageError, match="no run yet"):
        find(None, root=tmp_path)
    with pytest.raises(UsageError, match="not the folder of a run"):
        find(tmp_path, root=tmp_path)


def test_resuming_drops_the_metrics_of_epochs_that_will_be_trained_again(tmp_path):
    run = create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)
    for epoch in (1, 2, 3):
        run.log_epoch({"epoch": epoch, "losses": {"ce": 1.0}})

    run.keep_epochs(2)

    assert [row["epoch"] for row in run.epochs()] == [1, 2]


def test_a_line_of_metrics_that_a_crash_cut_short_does_not_count(tmp_path):
    run = create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)
    run.log_epoch({"epoch": 1})
    with run.metrics.open("a") as file:
        file.write('{"epoch": 2, "lo')

    assert [row["epoch"] for row in run.epochs()] == [1]
    run.keep_epochs(2)
    run.log_epoch({"epoch": 2})
    assert [row["epoch"] for row in run.epochs()] == [1, 2]


def test_where_links_cannot_be_made_a_text_file_points_to_the_latest(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(1, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = _finish(create("bss", out=None, overwrite=False, root=tmp_path))

    assert (tmp_path / "latest").is_file()
    assert find(None, root=tmp_path) == run
