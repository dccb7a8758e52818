"""Mixtures: what is drawn, the same every time; licences and events; wrong files named."""

import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.check import check_store
from geotempo.data_builders.events import assign_events
from geotempo.data_builders.mix import mix_stores
from geotempo.data_builders.mixture import parse_mixture
from geotempo.data_builders.quotas import fill, thin
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.store import Store, write_store
from geotempo.model.errors import ConfigError, InputError
from geotempo.model.records import ImageRecord

FREE = "CC-BY-4.0; toy"


def sample(dataset, number, task="vqa", split="train", licence=FREE, **meta):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, len(dataset))).save(buffer, "PNG")
    return Sample(f"{dataset}/{split}/{number:04d}#{task}", dataset, split, task, (ImageRecord("", 8, 8, data=buffer.getvalue()),),
                  (Message("user", "<image>\nWhat?"), Message("assistant", "a field")), (), {"licence": licence, **meta})


@pytest.fixture
def stores(tmp_path):
    """`big`: 300 vqa, 30 caption, 20 val; `small`: 50 vqa."""
    write_store([*(sample("big", n) for n in range(300)), *(sample("big", n, "caption") for n in range(30)),
                 *(sample("big", n, split="val") for n in range(400, 420))], tmp_path / "big")
    write_store([sample("small", n) for n in range(50)], tmp_path / "small")
    return tmp_path


def mix(folder, name="out", commercial=False, card=False, **keys):
    path = folder / f"{name}.yaml"
    keys["stores"] = [{**entry, "store": str(folder / entry["store"])} for entry in keys["stores"]]
    path.write_text(yaml.safe_dump(keys))
    manifest, table = mix_stores(path, folder / name, commercial=commercial, progress=False, card=card)
    return manifest, table, Store(folder / name)


BOTH = [{"store": "big"}, {"store": "small"}]


def by(store, split="train"):
    found = {}
    for row in store.rows(split=split):
        key = (store.ids[row].split("/")[0], store.facts(row).task)
        found[key] = found.get(key, 0) + 1
    return found


def test_without_weights_everything_is_taken_and_the_store_is_sound(stores):
    manifest, table, store = mix(stores, stores=BOTH)
    assert manifest["counts"]["by_split"] == {"train": 380, "val": 20} and not check_store(store, progress=False).faults
    assert [(entry.split, entry.task, entry.there, entry.drawn) for entry in table] == [
        ("train", "caption", 30, 30), ("train", "vqa", 300, 300), ("train", "vqa", 50, 50), ("val", "vqa", 20, 20)]
    original = Store(stores / "big")
    assert store.by_id("big/train/0007#vqa") == original.by_id("big/train/0007#vqa")
    assert manifest["counts"]["images"] == 370  # captions and questions share theirs


def test_weights_are_proportions_without_repetition(stores):
    weighted = [{"store": "big", "weight": 3}, {"store": "small", "weight": 1}]
    _, _, store = mix(stores, stores=weighted, splits=["train"])
    assert by(store) == {("big", "vqa"): 136, ("big", "caption"): 14, ("small", "vqa"): 50}
    _, _, store = mix(stores, "eighty", stores=weighted, samples=80)
    assert sum(by(store).values()) == 80 and by(store)["small", "vqa"] == 20 and len(store.rows(split="val")) == 20
    _, _, store = mix(stores, "more", stores=weighted, samples={"train": 280, "val": 5})
    assert sum(by(store).values()) == 280 and by(store)["small", "vqa"] == 50 and len(store.rows(split="val")) == 5


def test_caps_tasks_splits_and_temperature(stores):
    part = {"store": "big", "splits": ["train"]}
    assert by(mix(stores, "cap", stores=[{**part, "cap": 22}])[2]) == {("big", "vqa"): 20, ("big", "caption"): 2}
    assert by(mix(stores, "each", stores=[{**part, "cap_per_task": 25}])[2]) == {("big", "vqa"): 25, ("big", "caption"): 25}
    assert by(mix(stores, "task", stores=[{**part, "tasks": ["caption"]}])[2]) == {("big", "caption"): 30}
    assert by(mix(stores, "even", stores=[part], samples=40, temperature=0)[2]) == {("big", "vqa"): 20, ("big", "caption"): 20}
    assert by(mix(stores, "root", stores=[{**part, "temperature": 0.5}], samples=40)[2]) == {("big", "vqa"): 30, ("big", "caption"): 10}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(stores, digest):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mix(stores, name, stores=BOTH, samples=100, seed=seed)
    assert digest(stores / "a") == digest(stores / "b")
    drawn = {name: set(Store(stores / name).ids) for name in "ac"}
    assert drawn["a"] != drawn["c"] and len(drawn["a"]) == len(drawn["c"])


def test_what_is_drawn_does_not_depend_on_the_order_of_a_store(stores, tmp_path):
    write_store([sample("small", n) for n in reversed(range(50))], tmp_path / "turned" / "small")
    one, two = mix(stores, stores=[{"store": "small"}], samples=9)[2], mix(tmp_path / "turned", stores=[{"store": "small"}], samples=9)[2]
    assert set(one.ids) == set(two.ids)


def test_a_mixture_goes_on_where_it_was_killed(stores, digest, monkeypatch):
    from geotempo.data_builders import mix as module
    from geotempo.data_builders import shards

    monkeypatch.setattr(shards, "BLOCK_SAMPLES", 50)
    mix(stores, "whole", stores=BOTH)
    add, left = module.add_row, iter(range(120))

    def killed(*given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(*given)

    monkeypatch.setattr(module, "add_row", killed)
    with pytest.raises(KeyboardInterrupt):
        mix(stores, "cut", stores=BOTH)
    monkeypatch.setattr(module, "add_row", add)
    mix(stores, "cut", stores=BOTH)
    assert digest(stores / "whole") == digest(stores / "cut")


def test_commercial_use_names_every_source_that_forbids_it(stores):
    write_store([sample("nc", 1, licence="CC-BY-NC-SA-4.0; xBD")], stores / "nc")
    write_store([sample("old", 1, licence="LEVIR: academic use only")], stores / "old")
    parts = [*BOTH, {"store": "nc"}, {"store": "old"}]
    with pytest.raises(InputError, match=r"nc \(CC-BY-NC-SA-4\.0; xBD\); .*old \(LEVIR: academic use only\); leave them out"):
        mix(stores, stores=parts, licence="commercial")
    with pytest.raises(InputError, match="allows no source"):
        mix(stores, stores=parts, commercial=True)
    manifest, _, store = mix(stores, stores=parts, card=True)
    words = "unknown + CC-BY-NC-SA-4.0 + CC-BY-4.0 (terms partly unknown, no commercial use, share alike, which cannot be met together"
    assert manifest["licence"].startswith(words.split(", which")[0]) and manifest["licence"] in (store.path / "README.md").read_text()
    assert mix(stores, "free", stores=BOTH, licence="commercial")[0]["licence"] == "CC-BY-4.0"


def disasters(folder):
    write_store([sample("xbd", 10 * e + n, "damage", split, event=f"event-{e}") for e in range(6) for n, split in enumerate(("train", "test"))],
                folder / "xbd")
    write_store([sample("rscc", e, event=f"Event_{e}") for e in range(4, 7)], folder / "rscc")


def test_an_event_never_straddles_splits_unless_wanted(tmp_path):
    disasters(tmp_path)
    parts = [{"store": "xbd"}, {"store": "rscc"}]
    manifest, _, store = mix(tmp_path, stores=parts)
    seen = {}
    for row in store.rows():
        seen.setdefault(json.loads(store.row(row)["meta"])["event"].lower().replace("_", "-"), set()).add(store.facts(row).split)
    assert len(seen) == 7 and all(len(splits) == 1 for splits in seen.values())
    assert sorted(map(min, seen.values())) == ["test", *["train"] * 5, "val"] and manifest["events"] == {e: min(s) for e, s in seen.items()}
    _, _, store = mix(tmp_path, "named", stores=parts, events={"val": ["event-4"]})
    assert {json.loads(store.row(row)["meta"])["event"] for row in store.rows(split="val")} == {"event-4", "Event_4"}
    _, _, store = mix(tmp_path, "mixed", stores=parts, events="mixed")
    assert len(store.rows(split="test")) == 6
    for wrong, message in (({"val": ["event-9"]}, "no store of the mixture has"), ({"val": ["event-4"], "test": ["event_4"]}, "twice")):
        with pytest.raises(InputError, match=message):
            mix(tmp_path, "wrong", stores=parts, events=wrong)


@given(st.sets(st.text("abcdef", min_size=1), max_size=30), st.integers(0, 5))
def test_most_events_stay_in_train(events, seed):
    found = assign_events(events, None, seed, ("train", "val", "test"))
    counts = [list(found.values()).count(split) for split in ("train", "val", "test")]
    assert found.keys() == events and counts[0] >= counts[1] >= counts[2] and (counts[0] > 0 or not events)
    assert len(events) < 3 or min(counts) > 0


def test_places_in_two_splits_are_said(tmp_path):
    write_store([sample("mine", 1, scene="farm"), sample("mine", 2, split="val", scene="farm")], tmp_path / "mine")
    manifest, _, _ = mix(tmp_path, stores=[{"store": "mine"}])
    assert manifest["straddling"] == ["mine/farm"]


@given(st.integers(0, 1000), st.lists(st.tuples(st.floats(0, 100), st.integers(0, 200)), max_size=8))
def test_a_total_is_shared_out_whole_and_within_limits(total, parts):
    weights, limits = [weight for weight, _ in parts], [limit for _, limit in parts]
    given_out = fill(total, weights, limits)
    assert sum(given_out) == min(total, sum(limit for weight, limit in parts if weight > 0))
    assert all(0 <= got <= limit for got, limit in zip(given_out, limits, strict=True))


def test_thinning_keeps_proportions():
    assert thin([3, 1], [330, 50]) == [150, 50] and thin([1, 1, 2], [10, 0, 100]) == [10, 0, 20] and thin([], []) == []


@pytest.mark.parametrize(("keys", "words"), [
    ({"store": []}, "unknown 'store'; did you mean 'stores'"),
    ({"stores": []}, "a list of one or more"),
    ({"stores": [{"store": "a", "wieght": 1}]}, "store 1: unknown 'wieght'; did you mean 'weight'"),
    ({"stores": [{"weight": 1}]}, "needs store"),
    ({"stores": [{"store": "a"}, {"store": "a"}]}, "twice"),
    ({"stores": [{"store": "a", "tasks": ["captoin"]}]}, "did you mean 'caption'"),
    ({"stores": [{"store": "a", "cap": 0}]}, "cap must be a whole number of 1 or more"),
    ({"stores": [{"store": "a", "weight": -1}]}, "weight must be a number of 0 or more"),
    ({"stores": [{"store": "a", "weight": 0}]}, "leave the store out"),
    ({"stores": [{"store": "a"}], "temperature": 2}, "at most 1"),
    ({"stores": [{"store": "a"}], "temperature": 0.5}, "needs samples, cap or weight"),
    ({"stores": [{"store": "a"}], "seed": "x"}, "seed must be"),
    ({"stores": [{"store": "a"}], "samples": {"train": 5, "vla": 3}}, "did you mean 'val'"),
    ({"stores": [{"store": "a"}], "licence": "free"}, "allowed: commercial, any"),
    ({"stores": [{"store": "a"}], "events": "held out"}, "allowed: held_out, mixed"),
    ({"stores": [{"store": "a"}], "events": {"val": "joplin"}}, "list of names"),
    ("stores", "keys and values"),
])
def test_wrong_files_are_named(keys, words):
    with pytest.raises(ConfigError, match=words):
        parse_mixture(keys, "m.yaml")


def test_samples_in_two_stores_are_named(stores):
    write_store([sample("small", 3)], stores / "again")
    with pytest.raises(InputError, match="'small/train/0003#vqa' occurs twice"):
        mix(stores, stores=[{"store": "small"}, {"store": "again"}])


def test_the_command_prints_what_was_drawn(stores):
    path = stores / "m.yaml"
    path.write_text(yaml.safe_dump({"stores": [{"store": str(stores / "small"), "cap": 7}]}))
    done = CliRunner().invoke(app, ["mix", str(path), "--out", str(stores / "out"), "--licence", "commercial"])
    assert done.exit_code == 0, done.output
    assert any(line.split()[1:] == ["train", "vqa", "50", "7"] for line in done.output.splitlines())
    assert "7 samples, 7 images; licence: CC-BY-4.0" in done.output and (stores / "out" / "contact.png").is_file()
    with pytest.raises(ConfigError, match="cannot read the mixture"):
        mix_stores(Path("none.yaml"), stores / "no")
