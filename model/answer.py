r"""The answer grammar, version 1: what the model writes and how it is read.

Plain tokens, nothing added to a vocabulary:

- prose, a label, yes or no, a number: as they are;
- regions: a compact JSON list, `[{"image":2,"bbox_2d":[x1,y1,x2,y2],"label":"new building"}]`, integers 0-1000 of the
  frame's span (or 0 to another `Frame.grid`, where a base model natively counts otherwise), in the order image, top edge, left edge; `"points":[[x,y],[x,y]]` follows the box when masks are
  wanted, and `"grid":"..."` where the region is an area (`geotempo.model.answer_cells`); a region without a label has no `label` key; `[]` says that nothing matches;
- both: the sentence, a newline, the list;
- time: `Image k`, acquisitions counted in time order from 1;
- `teochat` mode, for TEOChat (Irvin et al. 2024) and its benchmarks: `[x1, y1, x2, y2]`, integers 0-100, several
  joined by `, `, without image and label.

Labels are JSON strings in which quotes, backslashes, controls, line separators, lone surrogates and `<` are escaped,
so no label can break the list, a line of a file, or smuggle in a special token.

`parse` is tolerant and says so: whatever it had to mend stands in `Answer.repairs`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from geotempo.model.answer_cells import GRID_CELLS, Cells
from geotempo.model.answer_grid import (
    TEOCHAT_GRID,
    Item,
    Mode,
    frame_of,
    in_mode,
    to_item,
    to_region,
    write_item,
    write_list,
)
from geotempo.model.answer_parse import holds_regions, parse
from geotempo.model.answer_schema import MAX_REGIONS, ebnf, json_schema, regex
from geotempo.model.errors import InputError
from geotempo.model.geometry import Point, area, bounds
from geotempo.model.records import GRID, Frame, Region

__all__ = [
    "GRID", "GRID_CELLS", "MAX_REGIONS", "TEOCHAT_GRID", "Mode", "ebnf", "format", "format_images", "format_region", "json_schema",
    "lossy_form", "parse", "parse_images", "parse_number", "parse_yes_no", "regex", "select",
]

NO_IMAGE = "No image"

_NONE = re.compile(r"\W*(?:in )?(?:no images?|none(?: of (?:the|these) images?)?)\W*", re.IGNORECASE)
_UNCLEAR = re.compile(r"\b(?:not|except|without|but|neither|nor|never|no|every|other)\b|[0-9] (?:to|through|until)\b",
                      re.IGNORECASE)
_NUMBERS = r"[0-9]{1,6}(?:(?: ?, ?(?:and )?| and | & | ?[-–] ?)[0-9]{1,6})*"
_IMAGES = re.compile(rf"\bimages? ?#?({_NUMBERS})(?![\w.]?\w)", re.IGNORECASE)
_NAMED = re.compile(r"\bimages? ?#?[0-9]", re.IGNORECASE)
_BARE = re.compile(rf"({_NUMBERS})\.?")
_NUMBER = re.compile(r"(?<![\w.,/:+-])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,15})(?:\.[0-9]{1,15})?"
                     r"(?:[eE][-+]?[0-9]{1,2})?(?!\w|[.,/:-]\w)")
_DIGIT = re.compile(r"[0-9]")
_NO_NUMBER = re.compile(r"\bimages?\s{1,4}[0-9]{1,6}\b|(?<=\s)[km]?m\^?[23]\b", re.IGNORECASE)  # names and units
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")
_LEADING = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_ALONE = re.compile(r"\b(yes|no)\b(?=[\"'*)]*\s*(?:[,.;:!?\n]|$))", re.IGNORECASE)


def format(regions: Sequence[Region], frames: Sequence[Frame], *, prose: str = "", points: bool = False,
           grids: bool | Callable[[Region], bool] = False, mode: Mode = "geotempo") -> str:
    r"""Write regions, and perhaps a sentence before them, as an answer.

    Boxes are rounded outward, at least one cell wide and high, and clipped to the image. Other geometries are written
    in their lossy form (`lossy_form`). Callers that may have more than `MAX_REGIONS` regions call `select` first.

    Args:
        regions: Any order; they are written in the order image, top edge, left edge.
        frames: `frames[k - 1]` belongs to acquisition k.
        prose: Put before the list, with a newline between.
        points: Write two interior points per region, where it has any (see `lossy_form`).
        grids: Write which cells of its box are inside, for every region that is more than a box, or for those of them
            that a function chooses.
        mode: `teochat` writes boxes only; without regions it writes the prose alone, as TEOChat's answers do.

    Returns:
        Text that `parse` reads back with status `ok`.

    Raises:
        InputError: A region is on an image that is not there, lies outside it, or is not assessable (the grammar has
            no word for that: say it in the prose); or the prose itself could be read as a list of regions.
    """
    frames = in_mode(frames, mode)
    for region in regions:
        if not region.assessable:
            raise InputError(f"a region on image {region.image} is not assessable ({region.reason}) and cannot be written "
                             "as found; leave it out or say so in the prose")
    if prose and holds_regions(prose, mode):
        raise InputError(f"the prose {prose[:60]!r} could be read as a list of regions; take the brackets out")
    own = mode == "geotempo"
    chosen = [own and (grids(region) if callable(grids) else grids) for region in regions]
    items = sorted((to_item(region, frames, points and own, grid) for region, grid in zip(regions, chosen, strict=True)),
                   key=_sort_key)
    if prose and mode == "teochat" and not items:
        return prose
    written = write_list(items, mode)
    return f"{prose}\n{written}" if prose else written


def format_region(region: Region, frames: Sequence[Frame], mode: Mode = "geotempo") -> str:
    """Write one region for use inside a question.

    Args:
        region: Any geometry; written as its bounding box, without label, points and grid.
        frames: `frames[k - 1]` belongs to acquisition k.
        mode: Which grammar.

    Returns:
        `{"image":1,"bbox_2d":[x1,y1,x2,y2]}`, or `[x1, y1, x2, y2]` in `teochat` mode.

    Raises:
        InputError: The region is on an image that is not there, or outside it.
    """
    item = to_item(region, in_mode(frames, mode), points=False, grids=False)
    return write_list([item], mode) if mode == "teochat" else write_item(Item(item.image, item.box))


def lossy_form(region: Region, frames: Sequence[Frame], *, points: bool = True, grids: bool = False,
               mode: Mode = "geotempo") -> Region:
    """What remains of a region after it was written and read: the declared loss of the grammar.

    - `Box`: its bounding box rounded outward to the frame's grid (1/1000 by default, in `teochat` mode 1/100, of the span).
    - `RotatedBox`, `Polygon`: the same of their bounding box, and two points inside them.
    - `Mask`: the same, and the region's points, or `geometry.interior_points` where it has none.
    - with `grids`, all of these but `Box` become a `GridMask`: that box in 16 x 16 cells, a cell inside where at least
      half of it was. What fills no cell by half stays a box. A `GridMask` that was read comes back as it is.

    A point moves to the nearest grid node inside the geometry; where no node is inside, the points are left out. In
    `teochat` mode label, points and grid are lost, and the region comes back on the latest acquisition.

    Args:
        region: Any geometry.
        frames: `frames[k - 1]` belongs to acquisition k.
        points: Whether points are written.
        grids: Whether grids are written.
        mode: Which grammar.

    Returns:
        The region that `parse(format([region], frames, points=points, grids=grids, mode=mode), frames, mode=mode)` holds.

    Raises:
        InputError: The region is on an image that is not there, or outside it.
    """
    frames = in_mode(frames, mode)
    own = mode == "geotempo"
    item = to_item(region, frames, points and own, grids and own)
    if mode == "teochat":
        item = Item(len(frames), item.box)
    return to_region(item, frame_of(item.image, frames))


def select(regions: Sequence[Region], max_regions: int = MAX_REGIONS) -> tuple[tuple[Region, ...], int]:
    """Keep the largest regions when an answer would hold too many.

    Args:
        regions: Any geometries; their sizes are compared in square pixels.
        max_regions: How many may stay, 0 or more.

    Returns:
        The regions kept, in the order given, and how many were left out (a sample says so in its meta). Equal sizes:
        the earlier image, then the upper, then the more left one stays.

    Raises:
        InputError: `max_regions` is negative.
    """
    if max_regions < 0:
        raise InputError(f"max_regions is {max_regions}; it must be 0 or more")
    if len(regions) <= max_regions:
        return tuple(regions), 0

    def rank(index: int) -> tuple[float, int, float, float, int]:
        box = bounds(regions[index].geometry)
        return -area(regions[index].geometry), regions[index].image, box.y1, box.x1, index

    kept = sorted(sorted(range(len(regions)), key=rank)[:max_regions])
    return tuple(regions[i] for i in kept), len(regions) - max_regions


def format_images(numbers: Iterable[int]) -> str:
    """Write acquisition numbers: `Image 4, Image 5`; `No image` where there are none.

    The form is that of TEOChat's temporal referring answers (QFabric).
    """
    return ", ".join(f"Image {number}" for number in sorted(set(numbers))) or NO_IMAGE


def parse_images(text: str, count: int) -> tuple[int, ...] | None:
    """Read acquisition numbers from an answer.

    Takes `Image 4, Image 5`, `images 4 and 5`, `Images 2-4`, bare `4, 5`, and any of them inside a sentence. What
    could mean something else ("not in Image 3", "Image 2 to Image 4") is not guessed.

    Args:
        text: The answer.
        count: How many acquisitions there are.

    Returns:
        Increasing numbers without repetition, empty for "no image" or "none"; None where the answer is unreadable or
        names an image that is not there.
    """
    clean = " ".join(text.split())
    if _NONE.fullmatch(clean):
        return ()
    bare = _BARE.fullmatch(clean)
    groups = [bare.group(1)] if bare else _IMAGES.findall(clean)
    if not groups or (not bare and (_UNCLEAR.search(clean) or len(_NAMED.findall(clean)) != len(groups))):
        return None
    numbers: set[int] = set()
    for group in groups:
        for part in filter(str.strip, re.split(r",|and|&", group, flags=re.IGNORECASE)):
            first, _, last = part.replace("–", "-").partition("-")
            if "-" in last:  # a date, or a chain of ranges
                return None
            low, high = int(first or 0), int(last or first or 0)
            if not 1 <= low <= high <= count:
                return None
            numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def parse_number(text: str) -> int | float | None:
    """Read the one number of an answer.

    Takes digits (thousands commas, sign, fraction, exponent) as a whole word anywhere in a sentence, and a number word
    from zero to twenty that is the whole answer. `Image k` is a name and the 2 of
    `m2` a unit, not a number.

    Args:
        text: The answer.

    Returns:
        The number; None where there is none, or where several different numbers stand in the text (dates, ranges).
    """
    clean = _NO_NUMBER.sub(" ", text)
    word = clean.strip(" \t\r\n.!").lower()
    if word in _WORDS:
        return _WORDS.index(word)
    found = _NUMBER.findall(clean)
    # A word with digits that is no number ("2021-08-03", "5-6", "B12") makes the answer ambiguous.
    if not found or len(found) != sum(_DIGIT.search(part) is not None for part in clean.split()):
        return None
    values = {float(number.replace(",", "")) for number in found}
    if len(values) > 1:
        return None
    value = values.pop()
    return int(value) if value.is_integer() and not re.search(r"[.eE]", found[0]) else value


def parse_yes_no(text: str) -> bool | None:
    """Read a yes-no answer by whole words.

    The answer opens with the word, or the word stands before a punctuation mark or the end ("The answer is yes.").
    "Yes, there are no trees" is a yes; "yes and no" and "nothing" are neither.

    Args:
        text: The answer.

    Returns:
        True, False, or None where neither or both were said.
    """
    said = {match.lower() for match in _ALONE.findall(text)}
    leading = _LEADING.match(text)
    if leading:
        said.add(leading.group(1).lower())
    return said == {"yes"} if len(said) == 1 else None


def _sort_key(item: Item) -> tuple[tuple[float, ...], str, tuple[Point, ...], Cells]:
    """Image, top, left; then everything else, so that the text does not depend on the order given."""
    return (*item.order, *item.box), item.label, item.points or (), item.grid or ()
