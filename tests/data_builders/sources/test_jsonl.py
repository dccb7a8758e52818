"""The user's own records: four formats, how they are told apart, and one clear line for whatever is wrong."""

import base64
import json
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geotempo.data_builders.build import build_store
from geotempo.data_builders.check import check_store
from geotempo.data_builders.families import place_name
from geotempo.data_builders.licences import TERMS
from geotempo.data_builders.own_records import formats_of
from geotempo.data_builders.render import target_text
from geotempo.data_builders.schema import prepare
from geotempo.data_builders.show import sample_sheet
from geotempo.data_builders.source import Item, Rejection
from geotempo.data_builders.sources import make_source
from geotempo.data_builders.store import Store
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.geometry import Box
from tests.data_builders.fixtures import instruct as made

FORMATS = ("llava", "teochat", "swift", "openai")


def built(root, out, **options):
    workers = options.pop("workers", 1)
    options = {"licence": "MIT", **options}
    manifest = build_store("jsonl", root, out, options=options, workers=workers, max_rejected=0.0, progress=False)
    return Store(out), manifest


def samples(root, record, **options):
    """What becomes of one record beside the fixture's pictures."""
    source = make_source("jsonl", licence="MIT", **options)
    made.write(root / "data.jsonl", [record])
    return list(source.read(root, Item("data.jsonl:0", record)))


def refusal(root, record, **options):
    with pytest.raises(Rejection) as error:
        samples(root, record, **options)
    return error.value


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_told_by_its_keys_and_named(tmp_path, kind, suffix):
    root = made.own(tmp_path / "in", kind, suffix)
    store, manifest = built(root, tmp_path / "out", boxes="teochat" if kind == "teochat" else "none")
    assert manifest["tally"][f"records/{kind}"] == 2 == len(store)
    assert not check_store(store, progress=False).faults
    assert {store.row(index)["dataset"] for index in range(2)} == {"own"}
    assert {store[index].meta["licence"] for index in range(2)} == {"MIT"}
    assert manifest["licence"] == "MIT"


def test_a_file_alone_is_a_root_too(tmp_path):
    root = made.own(tmp_path / "in", "llava", ".json")
    one, _ = built(root / "data.json", tmp_path / "one")
    two, _ = built(root, tmp_path / "two")
    assert one.ids == two.ids == ["own/train/data.json:0#caption", "own/train/data.json:1#change_vqa"]


def test_llava_records_keep_their_words(tmp_path):
    store, _ = built(made.own(tmp_path / "in", "llava"), tmp_path / "out")
    assert [message.text for message in store[1].messages] == ["<image><image>\nWhat changed?", "Nothing."]
    assert store[0].meta["record_id"] == "a"


def test_teochat_records_are_put_in_time_order_and_their_boxes_become_pixels(tmp_path):
    store, _ = built(made.own(tmp_path / "in", "teochat"), tmp_path / "out", boxes="teochat")
    first = store[0]
    assert [str(image.date) for image in first.images] == ["2018", "2020-05-01"]
    assert (first.task, first.question) == ("change_grounding", "Identify all changed buildings.")
    assert [(region.image, region.geometry) for region in first.target_regions] == [(2, Box(2, 1, 10, 6))]
    assert store[1].question == "Is there a pool?" and store[1].task == "vqa"


def test_swift_objects_are_put_on_the_image_that_they_name(tmp_path):
    store, _ = built(made.own(tmp_path / "in", "swift"), tmp_path / "out")
    first, second = store[0], store[1]
    assert (first.question, first.target, first.task) == ("Find the roof.", "<regions:0>", "change_grounding")
    assert [(region.image, region.geometry) for region in first.regions] == [(1, Box(2, 1, 8, 6))]
    assert [message.text for message in second.messages] == ["<image>\nWhat is this?", "A field.", "Image 1: And now?", "A road."]


def test_swift_grounding_in_json_with_labels(tmp_path):
    made.save(tmp_path / "0.png", 0)
    answer = '[\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"},\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"}\n]'
    (sample,) = samples(tmp_path, {
        "messages": [{"role": "user", "content": "<image>Find all."}, {"role": "assistant", "content": answer}], "images": ["0.png"],
        "objects": {"ref": ["roof", "pool"], "bbox": [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], "bbox_type": "norm1"}})
    assert sample.target == "<regions:0,1>" and sample.task == "referring_segmentation"
    assert [(region.label, region.geometry) for region in sample.regions] == [("roof", Box(0, 0, 10, 5)), ("pool", Box(10, 5, 20, 10))]


def test_swift_captions_name_what_their_boxes_show(tmp_path):
    made.save(tmp_path / "0.png", 0)
    (sample,) = samples(tmp_path, {
        "messages": [{"role": "user", "content": "<image>Describe the image."},
                     {"role": "assistant", "content": "<ref-object><bbox> and <ref-object><bbox><bbox> lie at the <ref-object>."}],
        "images": ["0.png"],
        "objects": {"ref": ["a ship", "two boats", "quay"], "bbox": [[0, 0, 10, 5], [1, 1, 2, 2], [3, 3, 4, 4]]}})
    assert sample.target == "a ship <region:0> and two boats <region:1> <region:2> lie at the quay."
    assert [region.label for region in sample.regions] == ["a ship", "two boats", "two boats"] and sample.task == "caption"
    assert target_text(sample).startswith('a ship and two boats lie at the quay.\n[{"image":1,"bbox_2d":[0,0,500,250],"label":"a ship"},')


def test_openai_parts_and_data_urls(tmp_path):
    store, _ = built(made.own(tmp_path / "in", "openai"), tmp_path / "out")
    assert (store[0].task, store[0].question, store[0].target) == ("counting", "How many roofs?", "3")
    assert store[0].images[0].encoded() == made.png(7)
    assert store[1].meta["system"] == "Be brief." and store[1].question == "Is it wet?"


@pytest.mark.parametrize("boxes, answer", [
    ("teochat", "[10, 20, 50, 60]"), ("0-1000", "[100, 200, 500, 600]"), ("pixels", "[2, 2, 10, 6]"), ("geochat", "{<10><20><50><60>}"),
    ("0-1000", "<|box_start|>(100,200),(500,600)<|box_end|>"),
    ("0-1000", '```json\n[{"bbox_2d": [100, 200, 500, 600], "label": ""}]\n```'), ("pixels", '[{"label": "", "bbox_2d": [2, 2, 10, 6]}]'),
])
def test_boxes_of_every_convention(tmp_path, boxes, answer):
    made.save(tmp_path / "0.png", 0)
    (sample,) = samples(tmp_path, {"image": "0.png", "conversations": made.llava("Where is the pool?", answer)}, boxes=boxes)
    assert [region.geometry for region in sample.target_regions] == [Box(2, 2, 10, 6)]
    assert target_text(sample) == '[{"image":1,"bbox_2d":[100,100,500,300]}]'  # 0-1000 of the padded square


def test_qwen_captions_name_what_their_boxes_show(tmp_path):
    made.save(tmp_path / "0.png", 0)
    answer = "A <|object_ref_start|>pool<|object_ref_end|><|box_start|>(100,200),(500,600)<|box_end|> by the <|object_ref_start|>road" \
             "<|object_ref_end|>."
    (sample,) = samples(tmp_path, {"image": "0.png", "conversations": made.llava("Describe it.", answer)}, boxes="0-1000")
    assert sample.target == "A pool <region:0> by the road." and sample.regions[0].label == "pool"


def test_numbers_stay_words_where_no_convention_is_named(tmp_path):
    made.save(tmp_path / "0.png", 0)
    (sample,) = samples(tmp_path, {"image": "0.png", "conversations": made.llava("Where?", "[10, 20, 50, 60]")})
    assert sample.target == "[10, 20, 50, 60]" and not sample.regions


@pytest.mark.parametrize("fields, question, answer, task", [
    ({"task": "damage"}, "q?", "a", "damage"), ({"task": "region_based_question_answering"}, "q?", "a", "region_vqa"),
    ({"task": "my own name"}, "q?", "a", "vqa"), ({}, "What is at [1, 2, 30, 40]?", "a", "region_vqa"),
    ({}, "Describe [1, 2, 30, 40].", "a", "region_caption"), ({}, "Give a short caption.", "a", "caption"),
    ({}, "Number of cars?", "12", "counting"), ({}, "Which?", "Image 1", "vqa"),
])
def test_tasks_by_the_record_or_by_what_it_looks_like(tmp_path, fields, question, answer, task):
    made.save(tmp_path / "0.png", 0)
    record = {"image": "0.png", "conversations": made.llava(question, answer), **fields}
    (sample,) = samples(tmp_path, record, boxes="teochat")
    assert sample.task == task and sample.id.endswith(f"#{task}")
    assert sample.meta.get("question_type") == (fields["task"] if fields and fields["task"] != task else None)
    (forced,) = samples(tmp_path, record, boxes="teochat", task="vqa")
    assert forced.task == "vqa"


def test_facts_of_the_images_and_for_evaluation(tmp_path):
    for number in range(2):
        made.save(tmp_path / f"{number}.png", number)
    (sample,) = samples(tmp_path, {
        "image": ["0.png", "1.png"], "conversations": made.llava("What changed?", "a"), "when": ["2020-05", "2021"], "sensor": "PlanetScope",
        "gsd": [3, 3.5], "references": ["a", "b"], "scene": 7, "event": "flood", "footprint": [8.1, 47, 8.2, 47.1]}, dates="when")
    assert [(str(image.date), image.sensor, image.gsd) for image in sample.images] == [
        ("2020-05", "PlanetScope", (3.0, 3.0)), ("2021", "PlanetScope", (3.5, 3.5))]
    assert (sample.meta["references"], sample.meta["scene"], sample.meta["event"]) == (["a", "b"], "7", "flood")
    assert sample.meta["footprint"] == [8.1, 47, 8.2, 47.1]


# --- splits --------------------------------------------------------------------------------------------------------


def test_records_about_the_same_images_share_a_split(tmp_path):
    root = tmp_path / "in"
    for number in range(40):
        made.save(root / f"{number}.png", number)
    made.write(root / "data.jsonl", [
        {"image": f"{number}.png", "conversations": made.llava(question, "a")} for question in ("q1?", "q2?") for number in range(40)])
    store, manifest = built(root, tmp_path / "out", val_share=0.3)
    where = {}
    for name in store.ids:
        sample = store.by_id(name)
        where.setdefault(sample.images[0].id, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in where.values()) and len(where) == 40
    assert 4 <= manifest["counts"]["by_split"]["val"] / 2 <= 20


def test_records_of_two_builds_share_a_place_only_with_their_images(tmp_path):
    record = {"image": "0.png", "conversations": made.llava("q?", "a")}
    scenes = {}
    for seed, name in ((0, "a"), (1, "b"), (0, "c")):
        made.save(tmp_path / name / "0.png", seed)
        (sample,) = samples(tmp_path / name, record)
        scenes[name] = place_name(sample.dataset, sample.split, "data.jsonl:0", sample.meta)
    assert scenes["a"] == scenes["c"] != scenes["b"]


def test_one_and_two_workers_write_the_same_bytes(tmp_path, digest):
    root = made.own(tmp_path / "in", "teochat")
    built(root, tmp_path / "one", boxes="teochat", val_share=0.5)
    built(root, tmp_path / "two", boxes="teochat", val_share=0.5, workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


# --- what strangers get wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, words", [
    ({"licence": "free"}, "unknown licence 'free'"), ({"format": "alpaca"}, "format is 'alpaca'; allowed: auto, llava"),
    ({"task": "count"}, "task is 'count'; allowed: auto, caption"), ({"boxes": "yolo"}, "boxes is 'yolo'; allowed: none, teochat"),
    ({"val_share": 2.0}, "val_share is 2"), ({"val_share": 0.1, "split": "test"}, "takes from train only"),
    ({"split": "dev"}, "split is 'dev'"), ({"dataset": "my data"}, "dataset is 'my data'"),
])
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        make_source("jsonl", **{"licence": "MIT", **options})


def test_the_licence_must_be_said():
    with pytest.raises(TypeError, match="licence"):
        make_source("jsonl")
    assert all(make_source("jsonl", licence=f"{name}; mine").licence == f"{name}; mine" for name in TERMS)


@pytest.mark.parametrize("content, words", [
    ("", "no whole JSON"), ("[]", "holds no record"), ('{"a": 1}\n{"a": 2}\n', "is named .jsonl"),
    ('[{"conversations": []}', "no whole JSON"), ('[{"text": "x"}]', "data.json, record 1: a record has the keys text; a record has one of"),
    ('["x"]', "a record is 'x'"), ('[{"image": "nowhere.png", "conversations": [{"from": "human", "value": "q"}]}]', "images=DIR"),
    ('[{"image": "x", "conversations": []}, {"messages": [], "images": []}]', "data.json, record 2 is a swift record, where llava"),
])
def test_files_that_are_none_are_refused(tmp_path, content, words):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(LayoutError, match=words):
        make_source("jsonl", licence="MIT").check_layout(tmp_path)


def test_folders_and_fields_that_are_not_there(tmp_path):
    source = make_source("jsonl", licence="MIT")
    with pytest.raises(LayoutError, match="is not there"):
        source.check_layout(tmp_path / "nowhere")
    with pytest.raises(LayoutError, match="holds none"):
        source.check_layout(tmp_path)
    root = made.own(tmp_path / "in", "teochat")
    with pytest.raises(LayoutError, match="images=/nowhere is no folder"):
        make_source("jsonl", licence="MIT", images="/nowhere").check_layout(root)
    with pytest.raises(LayoutError, match=r"dates=timestmp.*did you mean 'timestamp'"):
        make_source("jsonl", licence="MIT", dates="timestmp").check_layout(root)
    with pytest.raises(LayoutError, match=r"data.jsonl, line 1 is a teochat record, where swift is expected"):
        make_source("jsonl", licence="MIT", format="swift").check_layout(root)


def test_a_record_of_another_format_later_in_the_file_is_set_aside_by_number(tmp_path):
    root = made.own(tmp_path / "in", "llava")
    lines = (root / "data.jsonl").read_text() * 60 + json.dumps(made.openai("0.png", "q", "a")) + "\n{broken\n"
    (root / "data.jsonl").write_text(lines)
    manifest = build_store("jsonl", root, tmp_path / "out", options={"licence": "MIT"}, progress=False)
    entries = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["reason"]) for entry in entries] == [
        ("data.jsonl:120", "mixed formats"), ("data.jsonl:121", "broken record")]
    assert manifest["items"] == 122


@pytest.mark.parametrize("record, reason", [
    ({"image": "https://a.b/c.png", "conversations": made.llava("q", "a")}, "remote image"),
    ({"image": "../0.png", "conversations": made.llava("q", "a")}, "missing image"),
    ({"image": 3, "conversations": made.llava("q", "a")}, "no image"),
    ({"conversations": made.llava("q", "a")}, "no image"),
    ({"video": "clip.mp4", "conversations": made.llava("<video>q", "a")}, "no image"),
    ({"image": "0.png", "conversations": made.llava("q", "")}, "empty answer"),
    ({"image": "0.png", "conversations": made.llava("<image><image>q", "a")}, "tags and images differ"),
    ({"image": "0.png", "timestamp": ["2020", "2021"], "conversations": made.llava("q", "a")}, "dates and images differ"),
    ({"image": "0.png", "timestamp": "spring", "conversations": made.llava("q", "a")}, "broken date"),
    ({"image": ["0.png", "1.png"], "timestamp": ["2021", "2020"], "conversations": made.llava("What is in image 1?", "a")}, "order unclear"),
    ({"messages": [{"role": "user", "content": "<bbox>?"}, {"role": "assistant", "content": "a"}], "images": ["0.png"]},
     "boxes and tags differ"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "images": ["0.png"],
      "objects": {"bbox": [[1, 2, 3, 4]]}}, "boxes and tags differ"),
    ({"messages": [{"role": "user", "content": "<ref-object>"}, {"role": "assistant", "content": "a"}], "images": ["0.png"]},
     "names and tags differ"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<bbox>"}], "images": ["0.png"],
      "objects": {"bbox": [[1, 2]]}}, "impossible box"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<bbox>"}], "images": ["0.png"],
      "objects": {"bbox": [[1, 2, inf, 4]]}}, "impossible box"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<bbox>"}], "images": ["0.png"],
      "objects": {"bbox": [[1, 2, 3, 4]], "image_id": [4]}}, "no such image"),
    (made.openai("data:image/png;base64,AAAA", "q", "a"), "broken image"),
    (made.openai("", "q", "a"), "no image"),
    ({"image": "0.png", "sensor": {"a": 1}, "conversations": made.llava("q", "a")}, "broken sensor"),
    ({"image": "0.png", "gsd": "10 m", "conversations": made.llava("q", "a")}, "broken gsd"),
    ({"image": "x" * 5000, "conversations": made.llava("q", "a")}, "missing image"),
    ({"image": "/" + "x" * 5000, "conversations": made.llava("q", "a")}, "missing image"),
    ({"image": "0.png", "references": [3], "conversations": made.llava("q", "a")}, "broken references"),
    ({"image": "0.png", "footprint": [5, 1, 2, 3], "conversations": made.llava("q", "a")}, "broken footprint"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, {"role": "assistant", "content": "a"}]},
     "unknown content part"),
])
def test_bad_records_are_set_aside_with_a_reason(tmp_path, record, reason):
    for number in range(2):
        made.save(tmp_path / "in" / f"{number}.png", number)
    made.save(tmp_path / "0.png", 0)
    assert refusal(tmp_path / "in", record).reason == reason


def test_pictures_in_data_urls_must_be_of_a_known_kind(tmp_path):
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.new("RGB", (4, 4)).save(out, "GIF")
    record = made.openai("data:image/gif;base64," + base64.b64encode(out.getvalue()).decode(), "q", "a")
    assert refusal(tmp_path, record).reason == "unsupported image"


@pytest.mark.parametrize("record, kinds", [
    ({"conversations": []}, ("llava", "teochat")), ({"conversations": [], "image": "a"}, ("llava",)), ({"query": "q"}, ("swift",)),
    ({"messages": [{"content": "a"}]}, ("openai", "swift")), ({"messages": [{"content": []}]}, ("openai",)), ({"text": 1}, ()), (3, ()),
])
def test_formats_that_a_record_may_have(record, kinds):
    assert formats_of(record) == kinds


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 200), st.floats(), st.sampled_from(
    ["0.png", "a", "", "<image>", "<video>", "<bbox>", "<ref-object>", "user", "2020", "[1, 2, 3, 4]", "image_url", "data:image/png;base64,"]))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["from", "value", "role", "content", "type", "text", "image_url", "bbox", "ref"]), inner, max_size=3), max_leaves=6)
FIELDS = ("dates", "timestamp", "sensor", "gsd", "scene", "task", "references", "id", "objects", "images")


@st.composite
def spoilt(draw):
    """A sound record of some format in which up to three values at any depth were replaced, removed or added."""
    kind, record = draw(st.sampled_from([
        ("llava", {"image": ["0.png", "1.png"], "conversations": made.llava("<image><image>q", "[10, 10, 20, 20]")}),
        ("teochat", {"video": ["0.png"], "timestamp": ["2020"], "conversations": made.llava("<video>q [1, 2, 3, 4]", "a")}),
        ("swift", {"images": ["0.png"], "query": "q <bbox>", "response": "a", "history": [["a", "b"]], "system": "s",
                   "objects": {"ref": [], "bbox": [[1, 2, 3, 4]], "image_id": [0]}}),
        ("openai", made.openai("0.png", "q", "a"))]))
    record = json.loads(json.dumps(record))
    for _ in range(draw(st.integers(1, 3))):
        node = record
        while places := list(node) if isinstance(node, dict) else list(range(len(node))):
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and node[place] and draw(st.booleans()):
                node = node[place]
                continue
            if draw(st.booleans()):
                node[place] = draw(VALUES)
            elif isinstance(node, dict) and draw(st.booleans()):
                node[draw(st.sampled_from(FIELDS))] = draw(VALUES)
            else:
                del node[place]
            break
    return kind, record


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoilt())
def test_whatever_stands_in_a_record_it_is_kept_or_set_aside(tmp_path, case):
    kind, record = case
    for number in range(2):
        if not (tmp_path / f"{number}.png").is_file():
            made.save(tmp_path / f"{number}.png", number)
    source = make_source("jsonl", licence="MIT", format=kind, boxes="teochat")
    source._format = kind  # known from other records
    try:
        kept = list(source.read(tmp_path, Item("data.jsonl:0", record)))
    except InputError as error:
        assert str(error)
        return
    assert len(prepare(kept).rows) == 1


def test_records_of_one_scene_share_a_split(tmp_path):
    for number in range(30):
        made.save(tmp_path / f"{number}.png", number)
    where = {}
    for number in range(30):
        record = {"image": f"{number}.png", "scene": f"s{number // 3}", "conversations": made.llava("q?", "a")}
        (sample,) = samples(tmp_path, record, val_share=0.5)
        where.setdefault(record["scene"], set()).add(sample.split)
    assert len(where) == 10 and all(len(splits) == 1 for splits in where.values())
    assert set.union(*where.values()) == {"train", "val"}


def test_teochat_records_on_original_images(shared, tmp_path):
    """Pictures and questions of TEOChat's demo; the answers are ours."""
    folder = shared("TEOChat_examples")
    made.write(tmp_path / "in/data.jsonl", [
        {"video": [f"S2Looking_cd_{number}.png" for number in (1, 2)], "conversations": made.llava(
            "These are two satellite images capturing the same location at different times: <video>\nIdentify all changed buildings "
            "using bounding boxes of the form [x_min, y_min, x_max, y_max].", "[10, 20, 30, 40]")},
        {"video": [f"xBD_cls_{number}.png" for number in (1, 2)], "conversations": made.llava(
            "<video>\nClassify the level of damage experienced by the building at location [0, 8, 49, 53].", "Destroyed")},
        {"video": [f"QFabric_rtqa_{number}.png" for number in range(1, 6)],
         "conversations": made.llava("<video>\nIn which image was construction finished?", "Image 4")}])
    store, _ = built(tmp_path / "in", tmp_path / "out", boxes="teochat", images=str(folder))
    assert [len(store[index].images) for index in range(3)] == [2, 2, 5]
    assert [store[index].task for index in range(3)] == ["change_grounding", "region_vqa", "temporal_referring"]
    assert store[0].question == "Identify all changed buildings using bounding boxes."
    width, height = store[1].images[1].width, store[1].images[1].height
    corners = store[1].regions[0].geometry.as_tuple()
    assert corners == pytest.approx((0, 0.08 * height, 0.49 * width, 0.53 * height)) and store[1].regions[0].image == 2
    assert not check_store(store, progress=False).faults


def test_words_without_images_are_kept_where_that_is_meant(tmp_path):
    root = made.own(tmp_path / "in", "llava")
    lines = [{"conversations": made.llava("What is NDVI?", "An index. [1, 2]")}, {"conversations": made.llava("<image>\nWhat?", "a")},
             {"conversations": made.llava("<video>\nWhat?", "a")}]
    made.write(root / "more.jsonl", lines)
    build_store("jsonl", root, tmp_path / "out", options={"licence": "MIT", "text_only": True, "boxes": "pixels"},
                max_rejected=0.5, progress=False)
    store = Store(tmp_path / "out")
    sample = store.by_id("own/train/more.jsonl:0#vqa")
    assert (sample.images, sample.question, sample.target) == ((), "What is NDVI?", "An index. [1, 2]")
    assert target_text(sample) == sample.target
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert reasons == ["tags and images differ", "no image"]
    assert not check_store(store, progress=False).faults


def test_paths_are_shortened_only_where_their_first_folder_is_not_there(tmp_path):
    made.save(tmp_path / "val/a/1.png", 1)
    made.save(tmp_path / "a/2.png", 2)
    for name, found in (("val/a/1.png", True), ("/data/me/val/a/1.png", True), ("C:\\me\\val\\a\\1.png", True), ("val/a/2.png", False),
                        ("../a/2.png", False), (str(tmp_path / "a/2.png"), True)):
        record = {"image": name, "conversations": made.llava("q", "a")}
        if found:
            assert len(samples(tmp_path, record)) == 1
        else:
            assert refusal(tmp_path, record).reason == "missing image"


@pytest.mark.parametrize("fields", [
    {"conversations": made.llava("q \ud800", "a")}, {"conversations": made.llava("q", "<p>x\udfff</p>{<1><2><3><4>}")},
    {"image": "\ud800.png", "conversations": made.llava("q", "a")}, {"conversations": made.llava("q", "a"), "scene": "\ud800"}, {"conversations": made.llava("q", "a"), "sensor": "\ud800"},
])
def test_half_characters_cost_their_record_and_nothing_else(tmp_path, fields):
    made.save(tmp_path / "in/0.png", 0)
    made.write(tmp_path / "in/data.jsonl", [{"image": "0.png", **fields}, {"image": "0.png", "conversations": made.llava("q", "a")}])
    manifest = build_store("jsonl", tmp_path / "in", tmp_path / "out", options={"licence": "MIT", "boxes": "geochat"}, max_rejected=0.5,
                           progress=False)
    assert manifest["counts"]["samples"] == 1 == manifest["rejected"]["total"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_files_of_windows_editors_are_read(tmp_path, suffix):
    root = made.own(tmp_path / "in", "llava", suffix)
    path = root / f"data{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(built(root, tmp_path / "out")[0]) == 2


def test_an_object_around_the_records_is_refused(tmp_path):
    (tmp_path / "data.json").write_text('{"data": [{"image": "a"}]}')
    with pytest.raises(LayoutError, match="holds no record; expected a JSON array"):
        make_source("jsonl", licence="MIT").check_layout(tmp_path)


def test_words_without_images_get_a_sheet_too(tmp_path):
    (sample,) = samples(tmp_path, {"conversations": made.llava("What is NDVI?", "An index.")}, text_only=True)
    assert sample_sheet(sample).width >= 560


def test_an_original_llava_file_whose_paths_begin_elsewhere(shared, tmp_path):
    """GeoPixelD's sample: role `bot`, and a path from the folder of its repository."""
    store, manifest = built(shared("GeoPixelD") / "GeoPixelD.json", tmp_path / "out", licence="CC-BY-4.0; GeoPixelD")
    assert manifest["tally"]["records/llava"] == 1 and manifest["items"] == 1
    assert store[0].question.startswith("Could you perform an in-depth analysis") and "tennis court" in store[0].target
    assert not check_store(store, progress=False).faults
