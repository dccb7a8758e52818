"""Land-cover maps: colours, transitions, and the samples made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geotempo.data_builders.label_tasks import plural
from geotempo.data_builders.semantic import (
    BINS,
    HI_UCD,
    SECOND,
    class_map,
    from_to_regions,
    from_to_tasks,
    load_class_map,
    share_bin,
    transition,
)
from geotempo.data_builders.source import Draft, Rejection
from geotempo.model.records import ImageRecord

WATER, GROUND, LOW, TREE, BUILDING, PLAYGROUND = range(1, 7)


def coloured(numbers, palette=SECOND):
    table = np.array([palette.background, *palette.colours.values()], dtype=np.uint8)
    return table[numbers]


def pair(size=20):
    """Two trees turn into buildings (150 and 20 px), one ground into low vegetation (30 px)."""
    before, after = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    for rows, columns, first, second in ((slice(0, 10), slice(0, 15), TREE, BUILDING), (slice(12, 14), slice(0, 10), TREE, BUILDING),
                                         (slice(16, 19), slice(5, 15), GROUND, LOW)):
        before[rows, columns], after[rows, columns] = first, second
    return before, after


@pytest.fixture
def draft():
    images = tuple(ImageRecord(str(number), 20, 20, data=b"x") for number in (1, 2))
    return Draft("demo", "train", "a", images, "unknown")


@pytest.mark.parametrize("palette", [SECOND, HI_UCD], ids=lambda palette: palette.name)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_colour_comes_back_as_its_class(palette, seed):
    numbers = np.random.default_rng(seed).integers(0, len(palette.colours) + 1, (7, 9)).astype(np.uint8)
    assert np.array_equal(class_map(coloured(numbers, palette), palette), numbers)


def test_the_palettes_are_those_of_the_datasets():
    assert SECOND.classes[BUILDING - 1] == "building" and SECOND.colours["building"] == (128, 0, 0)
    assert SECOND.classes[PLAYGROUND - 1] == "playground" and SECOND.colours["playground"] == (255, 0, 0)
    assert HI_UCD.classes.index("woodland") == 8 and HI_UCD.colours["bare land"] == (175, 122, 255)


def test_an_unknown_colour_is_named():
    colours = coloured(pair()[0])
    colours[3, 3] = (0, 254, 1)
    with pytest.raises(Rejection, match=r"unknown colour: .*holds \(0, 254, 1\); allowed: the 7 colours of SECOND"):
        class_map(colours, SECOND)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_labels_may_be_coloured_or_hold_the_numbers(tmp_path, mode):
    before, _ = pair()
    if mode == "L":
        Image.fromarray(before).save(tmp_path / "a.png")
    else:
        Image.fromarray(coloured(before)).convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert np.array_equal(load_class_map(tmp_path / "a.png", SECOND), before)


def test_files_that_are_no_label_are_named(tmp_path):
    with pytest.raises(Rejection, match="missing mask"):
        load_class_map(tmp_path / "a.png", SECOND)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(Rejection, match="broken mask"):
        load_class_map(tmp_path / "a.png", SECOND)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(Rejection, match=r"holds \[255\]; allowed: .* numbers 0 to 6"):
        load_class_map(tmp_path / "b.png", SECOND)


def test_transitions_are_regions_that_add_up_to_the_change():
    before, after = pair()
    before[19, 19] = after[19, 19] = TREE  # the same class on both dates is no change
    regions = from_to_regions(before, after, SECOND.classes)
    assert [region.label for region in regions] == ["tree -> building", "non-vegetated ground surface -> low vegetation",
                                                    "tree -> building"]
    union = np.sum([region.geometry.to_array() for region in regions], axis=0)
    assert np.array_equal(union, (before != after).astype(int)) and {region.image for region in regions} == {2}
    assert transition(regions[0]) == ("tree", "building")
    only = from_to_regions(before, after, SECOND.classes, changed=np.arange(20)[:, None] * np.ones((1, 20)) < 11)
    assert [region.label for region in only] == ["tree -> building"]


def test_samples_of_a_pair(draft):
    found = {sample.id.partition("#")[2]: sample for sample in
             from_to_tasks(draft, from_to_regions(*pair(), SECOND.classes), SECOND.classes)}
    assert [region.label for region in found["semantic_change"].target_regions][1].startswith("non-vegetated")
    assert found["change_vqa"].target == "yes" and found["change_vqa:ratio"].target == "50_to_60"  # 200 of 400 pixels
    assert found["change_vqa:ratio:building"].target == "40_to_50"  # 170 of 400
    assert found["change_vqa:became:tree"].target == found["change_vqa:most_gained"].target == "building"
    assert found["change_vqa:most_lost"].target == "tree"
    became = found["region_vqa:became:tree_to_building"]
    assert became.target == "building" and found["region_vqa:was:tree_to_building"].target == "tree"
    assert became.regions[0].label == "" and "<region:0>" in became.question
    named = [sample for tag, sample in found.items() if tag.startswith("referring_segmentation:")]
    assert sorted(len(sample.target_regions) for sample in named) == [0, 0, 1, 2], "as many that did not happen as did"
    assert all(sample.question.count("tree to ") or sample.question.count("surface to ") for sample in named)


def test_a_pair_without_change_is_denied(draft):
    empty = np.zeros((20, 20), np.uint8)
    found = list(from_to_tasks(draft, from_to_regions(empty, empty, SECOND.classes), SECOND.classes))
    answers = {sample.id.partition("#")[2].split(":")[0]: sample.target for sample in found}
    assert answers == {"semantic_change": "<regions:>", "change_vqa": "0", "referring_segmentation": "<regions:>"}
    assert found[1].target == "no"


def test_most_is_asked_only_where_it_is_clear(draft):
    before, after = pair()
    after[0:10, 0:8] = PLAYGROUND  # of the trees, 80 px became a playground and 90 px buildings
    tags = {sample.id.partition("#")[2] for sample in from_to_tasks(draft, from_to_regions(before, after, SECOND.classes), SECOND.classes)}
    assert "change_vqa:became:tree" not in tags and "change_vqa:became:non-vegetated_ground_surface" in tags


@given(share=st.floats(0, 1))
def test_bins_hold_their_share(share):
    name = share_bin(share)
    assert name in BINS
    low, high = (0, 0) if name == "0" else map(int, name.split("_to_"))
    assert low <= 100 * share <= high


def test_the_same_questions_every_time(draft):
    regions = from_to_regions(*pair(), SECOND.classes)
    assert list(from_to_tasks(draft, regions, SECOND.classes)) == list(from_to_tasks(draft, regions, SECOND.classes))


@pytest.mark.parametrize(("one", "many"), [("tennis court", "tennis courts"), ("factory", "factories"), ("bus", "buses"),
                                           ("low vegetation", "low vegetation"), ("church", "churches"), ("bay", "bays"),
                                           ("cropland area", "cropland areas"), ("person", "people"), ("y", "ys")])
def test_plurals(one, many):
    assert plural(one) == many
