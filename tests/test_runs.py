"""Run folders: numbered, never written over, and the latest one is found."""

from pathlib import Path

import pytest

from compressor.errors import UsageError
from compressor.runs.folder import Run, find, new_run
from compressor.runs.lock import working


def create(name: str, **options) -> Run:
    """Make a run folder and let it go."""
    with new_run(name, **options) as run:
        return run


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


def test_what_was_never_a_run_is_not_written_over_at_all(tmp_path):
    mine = tmp_path / "project" / "report" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    (tmp_path / "project" / "result.json").write_text("{}")

    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not the folder of a run") as caught:
            create("x", out=tmp_path / "project", overwrite=overwrite, root=tmp_path / "runs")
        assert "never other files" in caught.value.hint

    assert mine.read_text() == "years of work"
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["report", "result.json"]


def test_a_folder_that_was_only_locked_keeps_its_files(tmp_path):
    """As that of a comparison, or of another tool with a `.lock` of its own."""
    mine = tmp_path / "project" / "report" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with working(tmp_path / "project"):
        pass

    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not the folder of a run"):
            create("x", out=tmp_path / "project", overwrite=overwrite, root=tmp_path / "runs")

    assert mine.read_text() == "years of work"


def test_a_finished_run_that_lost_its_recipe_is_no_blank_folder(tmp_path):
    run = create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)
    run.becomes("recipe: 1\n")
    run.exports.mkdir()
    (run.exports / "student.fp32.onnx").write_text("made")
    run.recipe.unlink()

    with pytest.raises(UsageError, match="not the folder of a run"):
        create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)
    assert (run.exports / "student.fp32.onnx").exists()


def test_a_run_that_is_overwritten_leaves_no_file_that_the_new_one_would_own(tmp_path):
    run = Run(tmp_path / "run")
    files = [getattr(run, name) for name, member in vars(Run).items() if isinstance(member, property)]
    for path in files:
        if path != run.exports:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("earlier")

    with new_run("x", out=run.folder, overwrite=True, root=tmp_path):
        assert {path for path in files if path.is_file()} == {run.begun, run.log}
    assert run.generated in files


def test_an_overwriting_that_was_killed_goes_on_beside_files_of_the_users(tmp_path):
    run = create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)
    run.becomes("recipe: 1\n")
    (run.folder / "notes.txt").write_text("the user's own")
    create("x", out=tmp_path / "mine", overwrite=True, root=tmp_path)  # and killed before it became a run

    again = create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path)

    assert not again.recipe.exists()
    assert (run.folder / "notes.txt").read_text() == "the user's own"


def test_nothing_is_removed_behind_a_link_of_a_run_from_elsewhere(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".building-mine").mkdir(parents=True)
    run = _finish(create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path))
    run.exports.symlink_to(elsewhere)

    with working(run.folder):
        pass

    assert (elsewhere / ".building-mine").is_dir()


@pytest.mark.parametrize("out", [None, "mine"])
def test_a_folder_whose_process_was_killed_before_it_became_a_run_is_taken_over(tmp_path, out):
    where = {"out": out and tmp_path / out, "overwrite": False, "root": tmp_path / "runs"}
    killed = create("x", **where)
    killed.stages.write_text("{}")
    killed.log.write_text("begun\n")

    again = create("x", **where)

    assert again.folder == killed.folder
    assert not again.stages.exists()
    assert _finish(again).folder == killed.folder
    assert create("x", out=None, overwrite=False, root=tmp_path / "runs").folder.name == ("x-1" if out else "x-2")


@pytest.mark.parametrize("out", [None, "mine"])
def test_a_folder_whose_process_was_killed_in_its_first_file_is_taken_over(tmp_path, monkeypatch, out):
    where = {"out": out and tmp_path / out, "overwrite": False, "root": tmp_path / "runs"}

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nothing is cleaned up
        with pytest.raises(KeyboardInterrupt):
            create("x", **where)
    folder = tmp_path / (out or "runs/x-1")
    assert [each.name for each in folder.iterdir() if each.name.endswith(".part")]

    assert create("x", **where).folder == folder
    assert not [each.name for each in folder.iterdir() if each.name.endswith(".part")]


def test_a_folder_that_another_process_holds_is_left_to_it(tmp_path):
    where = {"out": None, "overwrite": False, "root": tmp_path}
    with new_run("x", **where) as first, new_run("x", **where) as second:
        assert (first.folder.name, second.folder.name) == ("x-1", "x-2")


def test_what_a_killed_process_left_half_written_goes_when_the_run_is_next_worked_in(tmp_path):
    run = _finish(create("x", out=tmp_path / "mine", overwrite=False, root=tmp_path))
    half = [run.folder / ".result.json.41.part", run.exports / ".building-abc" / "graph.onnx"]
    mine = run.exports / ".gitkeep"
    for path in (*half, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")

    with working(run.folder):
        assert not any(path.exists() for path in half)
        assert mine.exists()


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
