"""The source datasets that `geotempo build` knows. Adding one: a module with a class, and a line here."""

import difflib
from importlib import import_module

from geotempo.data_builders.source import Source
from geotempo.model.errors import InputError

SOURCES = {
    "levir-cc": ("levir_cc", "LevirCC"),
    "levir-mci": ("levir_mci", "LevirMci"),
    "levir-cdc": ("caption_masks", "LevirCdc"),
    "whu-cdc": ("caption_masks", "WhuCdc"),
    "forest-change": ("caption_masks", "ForestChange"),
    "dubai-ccd": ("dubai_ccd", "DubaiCcd"),
    "levir-ccd": ("dubai_ccd", "LevirCcd"),
    "second-cc": ("second_cc", "SecondCc"),
    "sysu-cc": ("sysu_cc", "SysuCc"),
    "rscc": ("rscc", "Rscc"),
    "rsicd": ("image_captions", "Rsicd"),
    "ucm-captions": ("image_captions", "UcmCaptions"),
    "sydney-captions": ("image_captions", "SydneyCaptions"),
    "nwpu-resisc45": ("scene_folders", "NwpuResisc45"),
    "uc-merced": ("scene_folders", "UcMerced"),
    "aid": ("scene_folders", "Aid"),
    "eurosat": ("eurosat", "EuroSat"),
    "scene-folders": ("scene_folders", "SceneFolders"),
    "levir-cd": ("levir_cd", "LevirCd"),
    "levir-cd-plus": ("change_masks", "LevirCdPlus"),
    "s2looking": ("change_masks", "S2Looking"),
    "whu-cd": ("change_masks", "WhuCd"),
    "sysu-cd": ("change_masks", "SysuCd"),
    "clcd": ("change_masks", "Clcd"),
    "dsifn": ("change_masks", "Dsifn"),
    "cdd": ("change_masks", "Cdd"),
    "second": ("second", "Second"),
    "xbd": ("xbd", "Xbd"),
    "ida-bd": ("ida_bd", "IdaBd"),
    "bright": ("bright", "Bright"),
    "fmow": ("fmow", "Fmow"),
    "qfabric": ("qfabric", "QFabric"),
    "nwpu-vhr10": ("nwpu_vhr10", "NwpuVhr10"),
    "oscd": ("oscd", "Oscd"),
    "rrsis-d": ("rrsis_d", "RrsisD"),
    "dior-rsvg": ("dior_rsvg", "DiorRsvg"),
    "refsegrs": ("refsegrs", "RefSegRs"),
    "rsvg": ("rsvg", "Rsvg"),
    "teochatlas": ("teochatlas", "Teochatlas"),
    "geochat-instruct": ("geochat", "GeochatInstruct"),
    "vrsbench": ("geochat", "Vrsbench"),
    "geollava": ("geollava", "Geollava"),
    "unirs": ("unirs", "Unirs"),
    "cdvqa": ("cdvqa", "Cdvqa"),
    "rsvqa-lr": ("rsvqa", "RsvqaLr"),
    "rsvqa-hr": ("rsvqa", "RsvqaHr"),
    "rsivqa": ("rsivqa", "Rsivqa"),
    "qag-360k": ("qag_360k", "Qag360k"),
    "changechat": ("changechat", "ChangeChat"),
    "falcon": ("falcon", "Falcon"),
    "earthdial": ("earthdial", "Earthdial"),
    "geopixeld": ("geopixeld", "GeoPixelD"),
    "scenes": ("scenes", "Scenes"),
    "jsonl": ("jsonl", "Jsonl"),
    "coco": ("coco", "Coco"),
    "geojson": ("geojson", "GeoJson"),
    "stac": ("stac", "Stac"),
}


def make_source(name: str, **options: object) -> Source:
    """Make a source by its name on the command line.

    Args:
        name: Key of `SOURCES`.
        **options: Arguments of its class.

    Raises:
        InputError: No such source.
    """
    return source_class(name)(**options)


def source_class(name: str) -> type[Source]:
    """The class of a source by its name on the command line.

    Raises:
        InputError: No such source.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown source {name!r}; {hint}allowed: {', '.join(SOURCES)}")
    module, attribute = SOURCES[name]
    kind: type[Source] = getattr(import_module(f"geotempo.data_builders.sources.{module}"), attribute)
    return kind
