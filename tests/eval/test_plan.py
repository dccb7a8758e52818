"""Ids come from a text file or from a recipe."""

from pathlib import Path

import pytest

from geotempo.eval.plan import read_ids
from geotempo.model.errors import InputError

RECIPE = Path(__file__).parents[2] / "finetune" / "recipes" / "real_overfit.yaml"


def test_ids_of_a_recipe_are_those_it_trains_on() -> None:
    ids = read_ids(RECIPE)
    assert len(ids) == len(set(ids)) == 32
    assert all(item.startswith("levir-mci/train/") for item in ids)


def test_ids_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("# a note\na/b/1\n\na/b/2#vqa\n")
    assert read_ids(tmp_path / "ids.txt") == ("a/b/1", "a/b/2#vqa")


@pytest.mark.parametrize(("name", "text"), [("a.txt", "\n"), ("a.yaml", "data: {store: x}"), ("a.yaml", "- 1"), ("b.yaml", "[")])
def test_a_file_without_ids_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        read_ids(tmp_path / name)
