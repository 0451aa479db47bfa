"""The recipes that come along: listed quickly, found by name or path, copied without overwriting."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import presets as module
from compressor.errors import EnvironmentMissing, UsageError
from compressor.presets import copy, find, method_presets, presets

REPOSITORY = Path(__file__).parent.parent


def test_every_recipe_of_the_repository_is_listed_with_its_first_line():
    found = presets()

    assert [preset.path for preset in found] == sorted((REPOSITORY / "recipes").glob("*.yaml"))
    assert [preset.name for preset in found] == sorted(preset.path.stem for preset in found)
    for preset in found:
        assert preset.path.read_text(encoding="utf-8").startswith(f"# {preset.summary}\n")


@pytest.mark.starts
def test_listing_imports_neither_torch_nor_pydantic_nor_yaml():
    script = (
        "import sys; from compressor.presets import presets; presets();"
        "print(sorted({'torch', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.starts
def test_in_a_wheel_the_recipes_lie_inside_the_package(tmp_path):
    package = tmp_path / "compressor"
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "compressor", package, ignore=leave_out)
    shutil.copytree(REPOSITORY / "recipes", package / "recipes")
    script = "from compressor.presets import presets; print(*[each.path for each in presets()], sep='\\n')"

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    listed = [Path(line) for line in done.stdout.splitlines()]
    assert listed == [package / "recipes" / preset.path.name for preset in presets()]


def test_an_installation_without_recipes_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "compressor" / "presets.py"))

    with pytest.raises(EnvironmentMissing, match="no recipes"):
        presets()


@pytest.mark.parametrize("name", ["smoke", "smoke.yaml"])
def test_a_name_finds_the_shipped_recipe(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert find(name) == REPOSITORY / "recipes" / "smoke.yaml"


def test_a_file_wins_over_a_shipped_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smoke").mkdir()
    assert find("smoke") == REPOSITORY / "recipes" / "smoke.yaml"

    Path("smoke.yaml").write_text("# mine\n", encoding="utf-8")
    assert find("smoke.yaml") == Path("smoke.yaml")
    assert find(str(tmp_path / "smoke.yaml")) == tmp_path / "smoke.yaml"


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("smok", "there is no recipe 'smok'", "did you mean 'smoke'?"),
        ("my/smoke.yml", "there is no recipe 'my/smoke.yml'", "did you mean 'smoke'?"),
        ("zzz", "there is no recipe 'zzz'", "compress recipes ls"),
        (".", ". is a folder, not a recipe", "compress recipes ls"),
        ("", "is a folder, not a recipe", "compress recipes ls"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_known(name, said, hint):
    with pytest.raises(UsageError) as caught:
        find(name)

    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_copy_is_the_file_itself(tmp_path):
    assert copy("smoke", tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    assert copy("smoke", tmp_path) == tmp_path / "smoke.yaml"

    original = find("smoke").read_bytes()
    assert (tmp_path / "mine.yaml").read_bytes() == original
    assert (tmp_path / "smoke.yaml").read_bytes() == original


@pytest.mark.parametrize("destination", ["taken.yaml", ".", "dangling.yaml"])
def test_a_copy_overwrites_nothing(tmp_path, monkeypatch, destination):
    monkeypatch.chdir(tmp_path)
    for taken in ("taken.yaml", "smoke.yaml"):
        Path(taken).write_text("precious", encoding="utf-8")
    Path("dangling.yaml").symlink_to("nowhere")

    with pytest.raises(UsageError, match="exists") as caught:
        copy("smoke", Path(destination))

    assert "another name" in caught.value.hint
    assert Path("taken.yaml").read_text(encoding="utf-8") == "precious"
    assert Path("smoke.yaml").read_text(encoding="utf-8") == "precious"
    assert Path("dangling.yaml").is_symlink()
    assert not Path("nowhere").exists()


def test_every_method_of_the_repository_is_listed_with_its_first_line():
    found = method_presets()

    assert [preset.path for preset in found] == sorted((REPOSITORY / "recipes" / "methods").glob("*.yaml"))
    assert {"kd+lskd", "kd+dist", "kd+nd", "dkd", "fitnet", "at", "bss+lskd"} <= {preset.name for preset in found}
    for preset in found:
        assert preset.path.read_text(encoding="utf-8").startswith(f"# {preset.summary}\n")
