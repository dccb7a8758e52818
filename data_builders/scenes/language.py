"""The words of scene samples: wordings of questions, captions and places. No logic about scenes in here.

In a question, `{span}` becomes nothing for a pair and " between image 2 and image 4" for part of a longer sequence;
the other fields are named after what fills them. Answers are lower case and short; captions have no final period.
"""

from collections.abc import Sequence
from typing import Final

QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "caption": ("Describe the image.", "What does the image show?", "Give a caption for the image."),
    "change_caption": ("Describe the changes{span}.", "What has changed{span}?",
                       "Give a caption for the changes{span}."),
    "presence": ("Does the image contain {thing}?", "Does the image show {thing}?",
                 "Can {thing} be seen in the image?"),
    "main_cover": ("What is the main land cover?", "Which land cover is most common in the image?"),
    "any_change": ("Has anything changed{span}?", "Is there a change{span}?", "Did the scene change{span}?"),
    "built": ("Has any building been built{span}?", "Are there new buildings{span}?"),
    "demolished": ("Has any building been demolished{span}?", "Was a building pulled down{span}?"),
    "damaged": ("Has any building been damaged{span}?", "Is there damage to buildings{span}?"),
    "flooded": ("Has land been flooded{span}?", "Is there a flood{span}?"),
    "cleared": ("Has forest been cleared{span}?", "Was forest cut down{span}?"),
    "road added": ("Has a road been added{span}?", "Was a new road built{span}?"),
    "how_many": ("How many buildings have been {done}{span}?", "Count the buildings that have been {done}{span}."),
    "region_change": ("What happened to {region}{span}?", "What is the change in {region}{span}?"),
    "region_cover": ("What is at {region}?", "Which land cover is at {region}?"),
    "roof": ("What colour is the roof of {region}?", "Which roof colour does {region} have?"),
    "region_caption": ("Describe {region}.", "What can be seen at {region}?"),
    "region_change_caption": ("Describe what happened at {region}{span}.",
                              "Give a caption for the change at {region}{span}."),
    "ground": ("Locate {phrase}{span}.", "Where are {phrase}{span}? Give their boxes.", "Find {phrase}{span}."),
    "ground_all": ("Locate all changes{span}.", "Where has the scene changed{span}? Give boxes.",
                   "Find every change{span}."),
    "refer": ("Segment {phrase}.", "Give the mask of {phrase}.", "Outline {phrase}."),
    "segment": ("Segment all changes{span}.", "Give masks of everything that has changed{span}."),
    "segment_caption": ("Describe the changes{span} and segment them.",
                        "Give a caption for the changes{span} and their masks."),
    "semantic": ("Which land cover has changed into which{span}? Give regions labelled from -> to.",
                 "Segment the land-cover changes{span} and label each from -> to."),
    "damage_all": ("Grade the damage of every building{span}.",
                   "Locate all buildings and give their damage grade{span}."),
    "damage_one": ("How badly is the building at {region} damaged{span}?",
                   "What is the damage grade of the building at {region}{span}?"),
    "exists": ("In which images does {thing} at {region} exist?", "Which images show {thing} at {region}?"),
    "first": ("In which image does {thing} at {region} first appear?",
              "What is the first image that shows {thing} at {region}?"),
    "when": ("Between which images did {thing} at {region} change?",
             "When did {thing} at {region} change? Give the last image before and the first after."),
    "state": ("Which images show that {state}?", "Name all images in which {state}."),
    "sequence_label": ("What kind of change does the sequence show?", "Classify the change in the sequence."),
    "scene_label": ("What kind of area is this?", "Classify the scene."),
    "count": ("How many {things} are there in the image?", "Count the {things} in the image."),
}

DONE: Final = {"built": "built", "demolished": "demolished", "damaged": "damaged or destroyed"}

PHRASES: Final = {
    "built": "the new buildings", "demolished": "the buildings that were demolished",
    "damaged": "the damaged buildings", "flooded": "the flooded areas", "cleared": "the areas of cleared forest",
    "road added": "the new roads",
}
LABELS: Final = {
    "built": "new building", "demolished": "demolished building", "damaged": "damaged building",
    "flooded": "flooded area", "cleared": "cleared forest", "road added": "new road",
}
SEQUENCE_LABELS: Final = {
    "built": "construction", "demolished": "demolition", "damaged": "building damage", "flooded": "flooding",
    "cleared": "deforestation", "road added": "road construction",
}
STATES: Final = {
    "flood": "land is flooded", "new road": "the new road exists", "clearing": "the forest has been cleared",
}
SETTINGS: Final = {
    "residential": "a residential area", "industrial": "an industrial area", "farmland": "farmland",
    "forest": "a forest area", "waterside": "a waterside area",
}
COVER_WORDS: Final = {"water": "water", "forest": "forest", "field": "fields", "road": "roads"}

# Change captions: (singular, plural) with {n} objects {place}; the first of each is the canonical one.
CLAUSES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "built": (("a building has been built{place}", "{n} buildings have been built{place}"),
              ("there is a new building{place}", "there are {n} new buildings{place}"),
              ("a building appears{place}", "{n} buildings appear{place}")),
    "demolished": (("a building has been demolished{place}", "{n} buildings have been demolished{place}"),
                   ("a building has been removed{place}", "{n} buildings have been removed{place}"),
                   ("a building has disappeared{place}", "{n} buildings have disappeared{place}")),
    "damaged": (("a building has been damaged{place}", "{n} buildings have been damaged{place}"),
                ("there is damage to a building{place}", "there is damage to {n} buildings{place}"),
                ("a building is damaged{place}", "{n} buildings are damaged{place}")),
    "destroyed": (("a building has been destroyed{place}", "{n} buildings have been destroyed{place}"),
                  ("a building lies in debris{place}", "{n} buildings lie in debris{place}"),
                  ("only debris is left of a building{place}", "only debris is left of {n} buildings{place}")),
    "flooded": (("land has been flooded{place}",) * 2, ("a flood covers land{place}",) * 2,
                ("water has spread over land{place}",) * 2),
    "cleared": (("forest has been cleared{place}",) * 2, ("trees have been cut down{place}",) * 2,
                ("a patch of forest has become bare ground{place}",) * 2),
    "road added": (("a road has been added{place}",) * 2, ("there is a new road{place}",) * 2,
                   ("a new road has been built{place}",) * 2),
}
NO_CHANGE: Final = ("nothing has changed", "the scene has not changed", "no change has occurred",
                    "there is no difference between the images", "the images show the same scene")
NO_CHANGE_CLOUD: Final = ("nothing has changed outside the clouds", "no change can be seen outside the clouds",
                          "the visible part of the scene has not changed")
NOT_ASSESSABLE: Final = "not assessable"

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PLACES = (("upper left", "top", "upper right"), ("left", "centre", "right"), ("lower left", "bottom", "lower right"))


def number(count: int) -> str:
    """A number as a word up to twelve, else as digits."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def joined(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def place(centres: Sequence[tuple[float, float]], size: int) -> str:
    """Where a group lies: a cell of a 3 x 3 grid, else a half of the image, else empty.

    Args:
        centres: (x, y) of the members in pixels.
        size: Side of the image in pixels.

    Returns:
        Words such as " in the upper left" or " at the top", with a leading blank, or an empty string.
    """
    cells = {(min(2, int(3 * y / size)), min(2, int(3 * x / size))) for x, y in centres}
    if len(cells) == 1:
        row, column = cells.pop()
        name = _PLACES[row][column]
        return f" {'at' if name in ('top', 'bottom') else 'on' if name in ('left', 'right') else 'in'} the {name}"
    half = size / 2
    halves = {"upper": all(y < half for _, y in centres), "lower": all(y >= half for _, y in centres),
              "left": all(x < half for x, _ in centres), "right": all(x >= half for x, _ in centres)}
    for name, holds in halves.items():
        if holds:
            return f" in the {name} half"
    return ""


def change_clause(kind: str, count: int, where: str, variant: int) -> str:
    """One clause of a change caption, e.g. `three buildings have been built in the upper left`."""
    wordings = CLAUSES[kind]
    singular, plural = wordings[variant % len(wordings)]
    return (singular if count == 1 else plural).format(n=number(count), place=where)
