"""What a store tells about itself: the card's metadata, licences of a mixture, the contact sheet."""

import json

import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from geotempo.data_builders.build import build_store
from geotempo.data_builders.card import CARD, MOST, SHEET, contact_sheet
from geotempo.data_builders.licences import TERMS, combine, hub_licence, licence_id, terms_of
from geotempo.data_builders.merge import merge_stores
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.sources import SOURCES, source_class
from geotempo.data_builders.store import Store, write_store
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box
from geotempo.model.records import ImageRecord, Region


@pytest.fixture
def scenes(tmp_path):
    build_store("scenes", tmp_path, tmp_path / "scenes", options={"count": 4, "size": 64, "val_share": 0.5}, progress=False, card=True)
    return tmp_path / "scenes"


def front(folder):
    _, text, body = (folder / CARD).read_text().split("---\n", 2)
    return yaml.safe_load(text), body


def test_the_card_counts_what_the_manifest_counts(scenes):
    data, body = front(scenes)
    counts = Store(scenes).manifest["counts"]
    assert data["license"] == "apache-2.0" and data["size_categories"] == ["n<1K"] and "scenes-0" in data["tags"]
    assert f"{counts['samples']} questions with answers on {counts['images']} images" in body
    assert all(f"| {name} | {count} |" in body for kind in ("by_split", "by_task", "by_licence") for name, count in counts[kind].items())


def test_datasets_opens_the_folder_by_its_card(scenes, tmp_path):
    samples = load_dataset(str(scenes), "samples", cache_dir=str(tmp_path / "cache"))
    images = load_dataset(str(scenes), "images", cache_dir=str(tmp_path / "cache"))["images"]
    store = Store(scenes)
    assert {name: len(part) for name, part in samples.items()} == store.manifest["counts"]["by_split"]
    assert sorted(images["id"]) == sorted(store.image_ids)


def test_equal_stores_get_equal_cards_and_sheets(scenes, tmp_path, digest):
    build_store("scenes", tmp_path, tmp_path / "again", options={"count": 4, "size": 64, "val_share": 0.5}, progress=False, card=True)
    assert digest(scenes) == digest(tmp_path / "again") and (scenes / SHEET).is_file()


def test_the_sheet_shows_all_tasks_before_it_repeats_one(scenes):
    from geotempo.data_builders.card import _chosen

    store = Store(scenes)
    tasks = [store.facts(index).task for index in _chosen(store, MOST)]
    assert len(set(tasks)) == min(MOST, len(store.manifest["counts"]["by_task"])) and len(tasks) == MOST
    with Image.open(scenes / SHEET) as sheet:
        assert sheet.mode == "P" and sheet.width < 2100 and sheet.height > 500


def sample(number, images, question="What is it?", answer="a field", regions=(), licence="MIT", **meta):
    records = tuple(ImageRecord(f"{number}-{k}", *size, data=encoded(size)) for k, size in enumerate(images))
    return Sample(f"t/train/{number}#vqa", "t", "train", "vqa", records,
                  (Message("user", "<image>" * len(records) + question), Message("assistant", answer)), regions,
                  {"licence": licence, **meta})


def encoded(size):
    import io

    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_sheet_takes_long_texts_any_script_odd_sizes_and_eight_images(tmp_path):
    long = "x" * 3000
    write_store([
        sample(0, [(40, 300)] * 8, "Опишите изменения. 变化是什么? " * 60, long), sample(1, [(3, 900)]), sample(2, [(1, 1)], long),
        sample(3, [(64, 64)] * 2, "Where is <region:0>?", "<regions:0>", (Region(2, Box(1, 1, 9, 9), "x" * 300),)),
    ], tmp_path / "store")
    sheet = contact_sheet(Store(tmp_path / "store"))
    assert sheet is not None and 600 < sheet.width < 2100 and sheet.height < 3000


def test_an_empty_store_has_a_card_and_no_sheet(tmp_path):
    from geotempo.data_builders.card import write_card

    write_store([], tmp_path / "store")
    write_card(tmp_path / "store")
    assert "an empty store" in (tmp_path / "store" / CARD).read_text() and not (tmp_path / "store" / SHEET).exists()


@pytest.mark.parametrize(("licences", "text", "hub"), [
    (["MIT"], "MIT", "mit"),
    (["CC-BY-NC-SA-4.0; xBD", "Apache-2.0; generated"], "CC-BY-NC-SA-4.0 + Apache-2.0 (no commercial use, share alike)", "other"),
    (["academic; LEVIR", "academic; other"], "academic (no commercial use)", "other"),
    (["unknown"], "unknown (terms partly unknown, no commercial use)", "unknown"),
    (["CC-BY-NC-ND-4.0", "CC-BY-SA-4.0"], ("CC-BY-NC-ND-4.0 + CC-BY-SA-4.0 (no commercial use, no derivatives, share alike, which "
                                           "cannot be met together: ask the owners before you pass it on)"), "other"),
])
def test_a_mixture_carries_the_strictest_terms(licences, text, hub):
    combined = combine(licences)
    assert combined.text == text and hub_licence(combined) == hub


def test_only_free_licences_allow_commercial_use():
    assert {name for name, terms in TERMS.items() if terms.commercial} == {
        "public-domain", "CC0-1.0", "MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0"}
    assert not terms_of("unknown; nobody said").known
    with pytest.raises(InputError, match="unknown licence 'GPL'; allowed: public-domain, CC0"):
        licence_id("GPL; x")


def test_a_merged_store_names_both_licences_in_its_card(tmp_path):
    write_store([sample(0, [(8, 8)])], tmp_path / "a")
    write_store([sample(1, [(8, 8)], licence="CC-BY-NC-4.0; x")], tmp_path / "b", source="other")
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out", progress=False, card=True)
    data, body = front(tmp_path / "out")
    assert data["license"] == "other" and data["license_name"] == "CC-BY-NC-4.0 + MIT (no commercial use)"
    assert "Licence of the whole: CC-BY-NC-4.0 + MIT (no commercial use)" in body


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_says_what_it_is(name):
    import sys

    from geotempo.data_builders.sample import TASKS

    kind = source_class(name)
    assert kind.name == name and kind.version >= 1 and kind.evidence in ("real", "documentation")
    assert licence_id(kind.licence) in TERMS and kind.tasks and set(kind.tasks) <= set(TASKS)
    assert len(kind.citation) > 10 and kind.__doc__
    said = sys.modules[kind.__module__].__doc__ or ""
    assert len(said) > 60, f"the module of {name} describes neither layout nor traps"


def test_the_table_and_the_description_of_sources(capsys):
    from geotempo.commands.sources import sources

    sources(markdown=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SOURCES) + 2 and "| levir-cc | change_caption, change_vqa | academic | seen real |" in lines
    sources("oscd")
    text = capsys.readouterr().out
    assert "tile: int = 256" in text and "Sentinel-2" in text and "licence: CC-BY-NC-SA-4.0" in text
    with pytest.raises(InputError, match="did you mean 'oscd'"):
        sources("osdc")


def test_the_command_line_writes_card_and_sheet(levir, tmp_path):
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "geotempo", "build", "levir-mci", "--root", levir, "--out", tmp_path / "out", "--shard", "1/1",
                           "--controls", "identical"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / CARD).is_file() and (tmp_path / "out" / SHEET).is_file()
    assert json.loads((tmp_path / "out/manifest.json").read_text())["builder"]["controls"] == ["identical"]
    assert any(name.endswith("@identical") for name in Store(tmp_path / "out").ids)
    for wrong, message in ((("x=1",), "levir-mci has no option 'x'"), (("--shard", "3/2"), "--shard must be i/n"),
                           (("--controls", "nothing"), "nothing")):
        bad = subprocess.run([sys.executable, "-m", "geotempo", "build", "levir-mci", *wrong, "--root", levir, "--out", tmp_path / "no"],
                             capture_output=True, text=True, timeout=120, check=False)
        assert bad.returncode == 2 and message in bad.stderr and len(bad.stderr.splitlines()) == 1 and not (tmp_path / "no").exists()


def test_the_table_in_the_documentation_is_that_of_the_command(capsys):
    from pathlib import Path

    from geotempo.commands.sources import sources

    sources(markdown=True)
    written = Path(__file__).parents[2] / "docs" / "sources.md"
    assert capsys.readouterr().out in written.read_text(), "write it anew: (head -3 docs/sources.md; geotempo sources --markdown) > ..."
