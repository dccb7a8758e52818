"""The package installs as geotempo.* and nothing else, from a wheel and in place."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"geotempo": "geotempo", "model": "geotempo.model", "data_builders": "geotempo.data_builders",
         "finetune": "geotempo.finetune", "serve": "geotempo.serve", "eval": "geotempo.eval"}


def package_folders() -> set[str]:
    """Every folder with an __init__.py, under its installed name."""
    found = set()
    for room, name in ROOMS.items():
        for init in (ROOT / room).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / room).parts
            found.add(".".join((name, *parts)))
    return found


def test_pyproject_lists_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]) == package_folders()


def test_type_checker_links_point_at_the_rooms() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".types" / "geotempo").iterdir()}
    for room in ROOMS:
        if room != "geotempo":
            assert links[room] == ROOT / room
    for entry in (ROOT / "geotempo").iterdir():
        if entry.name != "__pycache__":
            assert links[entry.name] == entry


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_only_geotempo(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"geotempo"}
    for needed in ("geotempo/py.typed", "geotempo/model/chat_template.jinja", "geotempo/data_builders/prompts.yaml",
                   "geotempo/model/weights/geotempo_tiny/model.safetensors", "geotempo/model/weights/sam_tiny/model.safetensors"):
        assert needed in names
    assert sum(name.startswith("geotempo/serve/demo_data/") and name.endswith(".tif") for name in names) == 4
    assert any(name.startswith("geotempo/eval/tasks/") and name.endswith(".yaml") for name in names)
    assert any(name.startswith("geotempo/finetune/recipes/") and name.endswith(".yaml") for name in names)


def test_wheel_runs_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    code = (f"import sys; sys.path.insert(0, {str(site)!r}); import geotempo.cli, geotempo.model.geometry as g; "
            "print(geotempo.cli.__file__, g.__file__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count(str(site)) == 2


def test_editable_install_runs_from_anywhere(tmp_path: Path) -> None:
    code = "import geotempo.model.geometry as g, geotempo.eval.metrics as m; print(g.__file__, m.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count(str(ROOT)) == 2
    probe = "import importlib.util as u; print([n for n in ('model', 'eval', 'serve') if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
