"""Scenes as a source: counts, splits, options, identical bytes whatever the number of workers."""

import hashlib
from pathlib import Path

import pytest

from geotempo.data_builders.build import build_store
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError

OPTIONS = {"count": 6, "seed": 3, "size": 64, "val_share": 0.34}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def test_built_twice_the_bytes_are_the_same(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        build_store("scenes", Path(), tmp_path / name, options=OPTIONS, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    store = Store(tmp_path / "one")
    items = {store.facts(row).id.partition("#")[0] for row in range(len(store))}
    assert {item.split("/")[1] for item in items} == {"train", "val"}
    assert len(items) == 6


def test_options_reach_the_generator(tmp_path: Path) -> None:
    build_store("scenes", Path(), tmp_path / "s", options={**OPTIONS, "dates": 3, "easy": True}, workers=1)
    store = Store(tmp_path / "s")
    assert max(len(store[row].images) for row in range(len(store))) == 3
    assert store.manifest["counts"]["images"] <= 18


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 8}, {"val_share": 2}])
def test_impossible_options_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(InputError):
        build_store("scenes", Path(), tmp_path / "s", options={**OPTIONS, **wrong}, workers=1)
    assert list(tmp_path.iterdir()) == []
