"""Tasks about one image: caption, vqa, region_vqa, region_caption, referring_segmentation, classification, counting."""

from geotempo.data_builders.scenes import language
from geotempo.data_builders.scenes.buildings import ROOFS
from geotempo.data_builders.scenes.desk import Desk, View
from geotempo.data_builders.scenes.facts import centre, countable, image_captions, setting_label, share, visible_mask
from geotempo.data_builders.scenes.scene import COVER, FIELD, FOREST, ROAD, WATER, SceneObject

_CERTAIN, _MAIN = 0.02, 0.45


def add(desk: Desk) -> None:
    """Add the single-image samples of a scene, each about a date drawn for it."""
    for task in (_caption, _presence, _main_cover, _region_cover, _roof, _region_caption, _refer_buildings,
                 _refer_roof, _refer_cover, _classification, _count, _count_roof):
        date = int(desk.rng.integers(len(desk.records)))
        task(desk, View((date,), date, date), date)


def _caption(desk: Desk, view: View, date: int) -> None:
    captions = image_captions(desk.scene, date)
    desk.add("caption", view, desk.ask("caption"), captions[0], references=captions)


def _presence(desk: Desk, view: View, date: int) -> None:
    """One yes and one no where the image has both; shares between nothing and 2 % are not asked about."""
    shares = {name: share(desk.scene, date, COVER.index(name)) for name in language.COVER_WORDS}
    groups = {"yes": [name for name, part in shares.items() if part >= _CERTAIN],
              "no": [name for name, part in shares.items()
                     if part == 0 and not (desk.scene.land_cover[date] == COVER.index(name)).any()]}
    for answer, names in groups.items():
        if names:
            thing = language.COVER_WORDS[desk.pick(names)]
            desk.add("vqa", view, desk.ask("presence", thing=thing), answer)


def _main_cover(desk: Desk, view: View, date: int) -> None:
    shares = [share(desk.scene, date, cover) for cover in range(len(COVER))]
    if max(shares) >= _MAIN:
        desk.add("vqa", view, desk.ask("main_cover"), COVER[shares.index(max(shares))])


def _seen(desk: Desk, date: int, kinds: tuple[str, ...] = ("building",)) -> list[SceneObject]:
    """Objects of these kinds that stand whole on a date and can be judged."""
    return [item for item in desk.scene.objects
            if item.kind in kinds and item.there(date) and item.grades[date] < 3 and item.assessable(date)]


def _region_cover(desk: Desk, view: View, date: int) -> None:
    names = {"building": "building", "water": "water", "flood": "water", "forest": "forest", "field": "field",
             "road": "road", "new road": "road", "clearing": "bare ground"}
    items = _seen(desk, date, tuple(names))
    if items:
        kind = desk.pick(sorted({item.kind for item in items}))
        item = desk.pick([item for item in items if item.kind == kind])
        region = desk.object_region(view, item, date, "")
        desk.add("region_vqa", view, desk.ask("region_cover", region="<region:0>"), names[kind], [region])


def _roof(desk: Desk, view: View, date: int) -> None:
    items = [item for item in _seen(desk, date) if item.grades[date] == 0]
    if items:
        item = desk.pick(items)
        region = desk.object_region(view, item, date, "")
        desk.add("region_vqa", view, desk.ask("roof", region="<region:0>"), item.colour, [region])


def _region_caption(desk: Desk, view: View, date: int) -> None:
    items = [item for item in _seen(desk, date) if item.grades[date] == 0]
    if not items:
        return
    item = desk.pick(items)
    where = language.place([centre(visible_mask(desk.scene, item, date))], desk.scene.size)
    captions = [f"a building with a {item.colour} roof{where}", f"a {item.colour} roof{where}",
                f"there is a building with a {item.colour} roof{where}"]
    desk.add("region_caption", view, desk.ask("region_caption", region="<region:0>"), captions[0],
             [desk.object_region(view, item, date, "")], captions)


def _refer_buildings(desk: Desk, view: View, date: int) -> None:
    """All buildings, or the largest one where it stands out."""
    items = countable(desk.scene, date)
    if items is None:
        return
    phrase = "all buildings"
    areas = sorted((int(visible_mask(desk.scene, item, date).sum()), item.id) for item in items)
    if len(areas) > 1 and areas[-1][0] > 1.3 * areas[-2][0] and desk.rng.random() < 0.5:
        phrase, items = "the largest building", [desk.scene.objects[areas[-1][1]]]
    regions = [desk.object_region(view, item, date, "building") for item in items]
    desk.add_list("referring_segmentation", view, desk.ask("refer", phrase=phrase), regions)


def _refer_roof(desk: Desk, view: View, date: int) -> None:
    """All buildings of a roof colour; one time in five of a colour that is not there."""
    items = countable(desk.scene, date)
    if items is None:
        return
    colours = sorted({item.colour for item in items})
    absent = [colour for colour in ROOFS if colour not in colours]
    colour = desk.pick(absent if absent and (not colours or desk.rng.random() < 0.2) else colours)
    regions = [desk.object_region(view, item, date, f"building with a {colour} roof")
               for item in items if item.colour == colour]
    phrase = f"all buildings with a {colour} roof"
    desk.add_list("referring_segmentation", view, desk.ask("refer", phrase=phrase), regions)


def _refer_cover(desk: Desk, view: View, date: int) -> None:
    """All pixels of a land-cover class, in one region; empty where the class is missing."""
    cover = int(desk.pick([ROAD, WATER, FOREST, FIELD]))
    mask = (desk.scene.land_cover[date] == cover) & ~desk.scene.clouds[date]
    certain = share(desk.scene, date, cover) >= _CERTAIN
    if not certain and (desk.scene.land_cover[date] == cover).any():
        return
    word = language.COVER_WORDS[COVER[cover]]
    regions = [desk.region(view, date, mask, word)] if certain else []
    desk.add_list("referring_segmentation", view, desk.ask("refer", phrase=f"the {word}"), regions)


def _classification(desk: Desk, view: View, date: int) -> None:
    label = setting_label(desk.scene, date)
    if label is not None:
        desk.add("classification", view, desk.ask("scene_label"), label)


def _count(desk: Desk, view: View, date: int) -> None:
    items = countable(desk.scene, date)
    if items is not None:
        desk.add("counting", view, desk.ask("count", things="buildings"), str(len(items)))


def _count_roof(desk: Desk, view: View, date: int) -> None:
    items = countable(desk.scene, date)
    if items is None:
        return
    colour = desk.pick([*ROOFS, *(item.colour for item in items)])
    count = sum(item.colour == colour for item in items)
    desk.add("counting", view, desk.ask("count", things=f"buildings with a {colour} roof"), str(count))
