"""Options of sources on the command line: types, defaults, and the errors of those who mistype them."""

from typing import Literal

import pytest

from geotempo.data_builders.options import described, read_options
from geotempo.data_builders.sources import SOURCES, source_class
from geotempo.data_builders.sources.levir_cc import LevirCC
from geotempo.data_builders.sources.scenes import Scenes
from geotempo.model.errors import ConfigError, InputError


class Many(LevirCC):
    """Options of every kind."""

    def __init__(self, *, kind: Literal["a", "b"] = "a", share: float = 0.1, names: tuple[str, ...] = (),
                 size: int | None = None, text: str = "", needed: bool = True) -> None:
        super().__init__()


@pytest.mark.parametrize(("given", "expected"), [
    (["count=5", "val_share=1", "easy=true"], {"count": 5, "val_share": 1.0, "easy": True}),
    (["dates=null"], {"dates": None}),
    ([], {}),
])
def test_values_are_those_of_yaml_in_the_type_asked_for(given, expected):
    found = read_options(Scenes, given)
    assert found == expected and [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_lists_may_be_written_short_and_texts_may_look_like_numbers():
    assert read_options(Many, ["names=train", "text=2018", "size=64", "kind=b"]) == {
        "names": ("train",), "text": "2018", "size": 64, "kind": "b"}
    assert read_options(Many, ["names=[train, val]"]) == {"names": ("train", "val")}


@pytest.mark.parametrize(("given", "message"), [
    (["cuont=5"], "scenes has no option 'cuont'; did you mean 'count'? it has: count, seed, size, dates, val_share, easy"),
    (["count"], "'count' is no option; write key=value"),
    (["count=many"], "scenes: count must be int, got 'many'"),
    (["count=true"], "scenes: count must be int, got 'true'"),
    (["count=1.5"], "scenes: count must be int, got '1.5'"),
    (["count=1", "count=2"], "given twice"),
    (["count=[1"], "is no YAML"),
])
def test_what_is_wrong_is_one_line(given, message):
    with pytest.raises(ConfigError) as error:
        read_options(Scenes, given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_choice_names_what_is_allowed():
    with pytest.raises(ConfigError, match=r"kind must be Literal\['a', 'b'\], got 'c'"):
        read_options(Many, ["kind=c"])


def test_a_source_without_options_says_so():
    with pytest.raises(ConfigError, match="levir-cc has no option 'x'; it has: none"):
        read_options(LevirCC, ["x=1"])


def test_options_are_described_with_type_and_default():
    assert described(Scenes)[:2] == ["count: int = 1000", "seed: int = 0"] and "dates: int | None = None" in described(Scenes)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_describes_its_options(name):
    assert all(": " in line for line in described(source_class(name)))


def test_an_unknown_source_names_the_nearest():
    with pytest.raises(InputError, match="unknown source 'levircd'; did you mean 'levir-cd'"):
        source_class("levircd")
