"""Stored samples as text: what is asked, what should be written."""

from geotempo.data_builders.render import area_like, ask_again, chat, target_text, to_request
from geotempo.data_builders.sample import Message, Sample
from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.model import answer
from geotempo.model.convention import TEOCHAT
from geotempo.model.geometry import Box, GridMask
from geotempo.model.prompts import frames_of
from geotempo.model.records import ImageRecord, Region
from tests.data_builders.fixtures.instruct import png


def test_every_scene_answer_is_readable_by_the_grammar() -> None:
    seen = set()
    for index in range(12):
        for sample in scene_samples(4, index, size=128):
            frames = frames_of(sample.images)
            read = answer.parse(target_text(sample), frames)
            assert read.status == ("refused" if sample.target == "not assessable" else "ok"), (sample.id, read)
            wanted = sample.target_regions
            assert (read.regions is None) == (wanted is None)
            if wanted is not None:
                assert len(read.regions or ()) == len(wanted)
                assert sorted(r.label for r in read.regions or ()) == sorted(r.label for r in wanted)
                seen.add(sample.task)
    assert {"change_grounding", "change_segmentation", "semantic_change", "damage"} <= seen


def test_points_are_written_only_on_request() -> None:
    sample = next(s for s in scene_samples(4, 0, size=128) if s.task == "referring_segmentation" and s.target_regions)
    assert '"points":' not in target_text(sample)
    assert '"points":' in target_text(sample, points=True)


def test_grids_are_written_for_areas_only() -> None:
    seen = set()
    for index in range(30):
        for sample in scene_samples(4, index, size=128):
            if not sample.target_regions:
                continue
            frames = frames_of(sample.images)
            assert '"grid":' not in target_text(sample)
            read = answer.parse(target_text(sample, grids="areas"), frames)
            assert read.status == "ok"
            every = answer.parse(target_text(sample, grids="all"), frames).regions or ()
            for region, other in zip(read.regions or (), every, strict=True):
                assert isinstance(other.geometry, GridMask) or not isinstance(region.geometry, GridMask)
                seen.add((region.label, "all", isinstance(other.geometry, GridMask)))
                gridded = isinstance(region.geometry, GridMask)
                assert gridded <= area_like(region)
                seen.add((region.label, gridded))
    assert {("flooded area", True), ("cleared forest", True), ("new building", False)} <= seen
    assert ("new building", "all", True) in seen
    assert any(" -> " in label and gridded[-1] for label, *gridded in seen)


def test_another_wording_keeps_images_and_answer() -> None:
    sample = next(s for s in scene_samples(4, 0, size=128) if s.task == "change_caption")
    other = ask_again(sample, "Tell me what is new.")
    assert to_request(other).question == "Tell me what is new."
    assert (other.images, other.target) == (sample.images, sample.target)
    conversation = chat(other)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert len(conversation.images) == len(sample.images)


def test_every_turn_of_a_conversation_is_rendered_with_its_geometry() -> None:
    image = ImageRecord("a", 100, 100, data=png(1, (100, 100)))
    talk = (Message("user", "<image>\nWhat is at <region:0>?"), Message("assistant", "A ship <region:1> at sea."),
            Message("user", "Where are all ships?"), Message("assistant", "<regions:0,1>"))
    regions = (Region(1, Box(50, 50, 100, 100)), Region(1, Box(0, 0, 50, 50), "ship"))
    sample = Sample("d/train/1#vqa", "d", "train", "vqa", (image,), talk, regions, {"licence": "MIT"})
    prompt = chat(sample)
    words = ["".join(part.get("text", "") for part in message["content"]) for message in prompt.messages]
    assert [message["role"] for message in prompt.messages] == ["user", "assistant", "user", "assistant"]
    assert words[0].endswith('What is at {"image":1,"bbox_2d":[500,500,1000,1000]}?') and len(prompt.images) == 1
    assert words[1] == 'A ship at sea.\n[{"image":1,"bbox_2d":[0,0,500,500],"label":"ship"}]'
    assert words[2] == "Where are all ships?"
    assert words[3] == target_text(sample) and words[3].startswith('[{"image":1,"bbox_2d":[0,0,500,500],"label":"ship"}')
    in_percent = [message["content"][-1]["text"] for message in chat(sample, convention=TEOCHAT).messages[1:]]
    assert in_percent == ["A ship [0, 0, 50, 50] at sea.", "Where are all ships?", "[0, 0, 50, 50], [50, 50, 100, 100]"]


def test_places_that_only_coordinates_name_stay_in_their_sentence() -> None:
    image = ImageRecord("a", 100, 100, data=png(1, (100, 100)))
    regions = (Region(1, Box(50, 50, 100, 100)), Region(1, Box(0, 0, 50, 50), "ship"))
    for target, written in (("The one at <region:0> is new.", 'The one at {"image":1,"bbox_2d":[500,500,1000,1000]} is new.'),
                            ("A ship <region:1> [{", 'A ship {"image":1,"bbox_2d":[0,0,500,500]} [{')):
        sample = Sample("d/train/1#vqa", "d", "train", "vqa", (image,), (Message("user", "<image>\nWhere?"), Message("assistant", target)),
                        regions, {"licence": "MIT"})
        assert target_text(sample) == written
