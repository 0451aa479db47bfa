"""The recipes, and settings of methods, that come with the package: listed, found, copied without importing torch."""

from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMissing, UsageError, did_you_mean
from compressor.files import replacing

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Preset:
    """A recipe file; its summary is the first line of the comment that it opens with."""

    name: str
    path: Path
    summary: str


def presets() -> list[Preset]:
    """Return the recipes that come with the package, by name.

    Raises:
        EnvironmentMissing: the installation has none.
    """
    found = _within(_folder())
    if not found:
        raise EnvironmentMissing("this installation has no recipes", hint="install the package again")
    return found


def method_presets() -> list[Preset]:
    """Return the files that hold a `method` section alone, for `compress compare`, by name."""
    return _within(_folder() / "methods")


def find(name: str) -> Path:
    """Return the file of a recipe: `name` is a file, which wins, or the name of one that comes along.

    Raises:
        UsageError: it is neither.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():  # a pipe will do
        return path
    known = {preset.name: preset.path for preset in presets()}
    if name.removesuffix(SUFFIX) in known:
        return known[name.removesuffix(SUFFIX)]
    what = f"{path} is a folder, not a recipe" if path.is_dir() else f"there is no recipe {name!r}"
    raise UsageError(what, hint=did_you_mean(path.stem, known) or "compress recipes ls")


def copy(name: str, destination: Path) -> Path:
    """Copy a recipe to a file that does not exist yet, or into a folder, and return what was written.

    Raises:
        UsageError: the file exists, or there is no such recipe.
    """
    source = find(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists", hint="choose another name, or remove it first")
    with replacing(target) as part:
        part.write_bytes(source.read_bytes())
    return target


def _folder() -> Path:
    """Return the folder of recipes: inside the package when it was installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def _within(folder: Path) -> list[Preset]:
    return [Preset(path.stem, path, _summary(path)) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("#").strip()
