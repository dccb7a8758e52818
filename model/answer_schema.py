r"""The answer grammar for structured output: JSON schema, regular expression, EBNF.

A serving engine that is given one of them (vLLM's `structured_outputs`, with xgrammar, llguidance or outlines) can
only write what `parse` reads; with the regular expression or the EBNF also without repair, but for what no such
grammar says: that x1 < x2, that the runs of a grid's row stand in order, and that regions do.
"""

from collections.abc import Sequence
from typing import Any

from geotempo.model.answer_cells import GRID_CELLS, ROW
from geotempo.model.errors import InputError
from geotempo.model.records import GRID, MAX_GRID

MAX_REGIONS = 32
"""Regions that one answer may hold; more objects than that means tiles."""

# Exactly what `answer_grid.escape` leaves as it is, and exactly the escapes that it writes. A positive class without
# lookarounds: constrained decoders work on UTF-8 and have neither lookarounds nor surrogates. In hexadecimal, since
# regular expressions and EBNF spell a code point differently.
_PLAIN = ((0x20, 0x21), (0x23, 0x3B), (0x3D, 0x5B), (0x5D, 0x7E), (0xA0, 0x2027), (0x202A, 0xD7FF), (0xE000, 0x10FFFF))
_PROSE = ((0x21, 0x5A), (0x5C, 0x7A), (0x7C, 0x7E), (0xA1, 0x2027), (0x202A, 0xD7FF), (0xE000, 0x10FFFF))


_ROWS = f"{ROW}(?:/{ROW}){{{GRID_CELLS - 1}}}"


def json_schema(image_count: int, *, points: bool = False, grids: bool = False, max_regions: int = MAX_REGIONS,
                labels: Sequence[str] | None = None, grid: int = GRID) -> dict[str, Any]:
    """The region list as a JSON schema (draft 2020-12 keywords).

    A pure JSON schema has no room for a sentence before the list (use `ebnf` there), does not say how a label is
    escaped, and engines put blanks between tokens unless told not to (xgrammar: `disable_any_whitespace`). There is
    no `minLength` on labels, since xgrammar allows no escapes in a string that has one.

    Args:
        image_count: Acquisitions of the request, 1 or more.
        points: Whether regions may carry two interior points.
        grids: Whether regions may carry a grid.
        max_regions: Most regions of one list.
        labels: The only labels allowed; then every region has one. None allows any text, or no label at all.
        grid: Cells per side of the frames (`Frame.grid`); the largest, where the images of a request differ.

    Returns:
        A JSON-serialisable dictionary; the order of its properties is the order in which they are written.

    Raises:
        InputError: `image_count` is below 1, `max_regions` below 0, `grid` beyond `MAX_GRID`, or `labels` is empty or holds an empty label.
    """
    _check(image_count, max_regions, grid)
    if labels is not None and (not labels or "" in labels):
        raise InputError(f"labels is {list(labels)!r}; give one or more labels, none of them empty, or None for any")
    number = {"type": "integer", "minimum": 0, "maximum": grid}
    pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    properties: dict[str, Any] = {
        "image": {"type": "integer", "minimum": 1, "maximum": image_count},
        "bbox_2d": {"type": "array", "items": number, "minItems": 4, "maxItems": 4},
    }
    if points:
        properties["points"] = {"type": "array", "items": pair, "minItems": 2, "maxItems": 2}
    if grids:
        properties["grid"] = {"type": "string", "pattern": f"^{_ROWS}$"}
    properties["label"] = {"enum": list(labels)} if labels else {"type": "string"}
    required = ["image", "bbox_2d", "label"] if labels else ["image", "bbox_2d"]
    item = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": 0, "maxItems": max_regions}


def regex(image_count: int, *, points: bool = False, grids: bool = False, max_regions: int = MAX_REGIONS,
          grid: int = GRID) -> str:
    """The region list as a regular expression, to be matched in full.

    It holds no lookaround, back reference or anchor, and spells characters outside ASCII as themselves, so Python's
    `re` and the regular expressions of xgrammar and outlines read it alike.

    Args:
        image_count: Acquisitions of the request, 1 or more.
        points: Whether regions may carry two interior points.
        grids: Whether regions may carry a grid.
        max_regions: Most regions of one list.
        grid: Cells per side of the frames; the largest, where the images of a request differ.

    Returns:
        A pattern that matches exactly the lists that `format` writes, apart from the order of numbers, of a grid's
        letters, and of regions.

    Raises:
        InputError: `image_count` is below 1, `max_regions` below 0, or `grid` beyond `MAX_GRID`.
    """
    _check(image_count, max_regions, grid)
    if max_regions == 0:
        return r"\[\]"
    number = f"(?:{_upto(grid, '|', '', '')})"
    pair = rf"\[{number},{number}\]"
    plain = "".join(_regex_range(*r) for r in _PLAIN)
    low = r"00(?:0[0-7bef]|1[0-9a-f]|3c|7f|[89][0-9a-f])"
    escaped = rf'\\(?:["\\bfnrt]|u(?:{low}|202[89]|d[89a-f][0-9a-f][0-9a-f]))'
    item = rf'\{{"image":(?:{_images(image_count, "|", "")}),"bbox_2d":\[{number},{number},{number},{number}\]'
    if points:
        item += rf'(?:,"points":\[{pair},{pair}\])?'
    if grids:
        item += f'(?:,"grid":"{_ROWS}")?'
    item += rf'(?:,"label":"(?:[{plain}]|{escaped})+")?\}}'
    more = f"(?:,{item}){{0,{max_regions - 1}}}" if max_regions > 1 else ""
    return rf"\[(?:{item}{more})?\]"


def ebnf(image_count: int, *, points: bool = False, grids: bool = False, max_regions: int = MAX_REGIONS,
         prose: bool = True, grid: int = GRID) -> str:
    r"""The whole answer, sentence and region list, as EBNF for xgrammar and llama.cpp (GBNF).

    A sentence is one line without `[` and `{`, so that nothing in it can be taken for the list.

    Args:
        image_count: Acquisitions of the request, 1 or more.
        points: Whether regions may carry two interior points.
        grids: Whether regions may carry a grid.
        max_regions: Most regions of one list.
        prose: Whether a sentence and a newline may stand before the list.
        grid: Cells per side of the frames; the largest, where the images of a request differ.

    Returns:
        Rules, one a line; the start symbol is `root`.

    Raises:
        InputError: `image_count` is below 1, `max_regions` below 0, or `grid` beyond `MAX_GRID`.
    """
    _check(image_count, max_regions, grid)
    rules = [r'root ::= (sentence "\n")? list' if prose else "root ::= list"]
    if prose:
        first = "".join(_ebnf_range(*r) for r in _PROSE)
        rules.append(f"sentence ::= [{first}] [ {first}]*")
    if max_regions == 0:
        return "\n".join([*rules, 'list ::= "[]"']) + "\n"
    more = f' ("," region){{0,{max_regions - 1}}}' if max_regions > 1 else ""
    parts = r'"{\"image\":" image ",\"bbox_2d\":[" number "," number "," number "," number "]"'
    if points:
        parts += r' (",\"points\":[" pair "," pair "]")?'
    if grids:
        parts += r' (",\"grid\":\"" cells "\"")?'
    rules += [
        f'list ::= "[" (region{more})? "]"',
        rf'region ::= {parts} (",\"label\":\"" char+ "\"")? "}}"',
        f"image ::= {_images(image_count, ' | ', chr(34))}",
        f"number ::= {_upto(grid, ' | ', ' ', chr(34))}",
    ]
    if points:
        rules.append('pair ::= "[" number "," number "]"')
    if grids:
        rules += [f'cells ::= row ("/" row){{{GRID_CELLS - 1}}}', "row ::= ([a-p] [a-p]){0,8}"]
    rules += [
        f'char ::= [{"".join(_ebnf_range(*r) for r in _PLAIN)}] | "\\\\" escape',
        r'escape ::= ["\\bfnrt] | "u" code',
        'code ::= "00" low | "202" [89] | "d" [89a-f] [0-9a-f] [0-9a-f]',
        'low ::= "0" [0-7bef] | "1" [0-9a-f] | "3c" | "7f" | [89] [0-9a-f]',
    ]
    return "\n".join(rules) + "\n"


def _check(image_count: int, max_regions: int, grid: int) -> None:
    """Refuse counts for which there is no grammar."""
    if image_count < 1 or max_regions < 0:
        raise InputError(f"image_count is {image_count} and max_regions {max_regions}; allowed: 1 or more, 0 or more")
    if not 1 <= grid <= MAX_GRID:
        raise InputError(f"grid is {grid}; allowed: 1 to {MAX_GRID} cells per side")


def _upto(last: int, either: str, then: str, quote: str) -> str:
    """The integers from 0 to `last` without leading zeros, as alternatives of a regular expression or of EBNF."""
    digits = str(last)
    found = [f"{quote}0{quote}"]
    if len(digits) > 1:  # all shorter numbers
        found.append("[1-9]" + (f"{then}[0-9]{{0,{len(digits) - 2}}}" if len(digits) > 2 else ""))
    for place, digit in enumerate(digits):  # as long, with the same digits up to a place and a lower one there
        final = place == len(digits) - 1
        low, high, rest = int(place == 0), int(digit) - (not final), len(digits) - 1 - place
        if low > high:
            continue
        start = digits[:place] + (str(low) if low == high else "")
        parts = [f"{quote}{start}{quote}"] if start else []
        if low < high:
            parts.append(f"[{low}-{high}]")
        if rest:
            parts.append("[0-9]" + (f"{{{rest}}}" if rest > 1 else ""))
        found.append(then.join(parts))
    return either.join(found)


def _images(count: int, joint: str, quote: str) -> str:
    """The image numbers, longest first: an engine that takes the first match must not stop at 1 of 12."""
    return joint.join(f"{quote}{k}{quote}" for k in range(count, 0, -1))


def _regex_range(first: int, last: int) -> str:
    """A range of a regular expression's character class, the characters themselves."""
    return "-".join(f"\\{chr(c)}" if chr(c) in "[]\\-^" else chr(c) for c in (first, last))


def _ebnf_range(first: int, last: int) -> str:
    """A range of an EBNF character class, as code points."""
    return "-".join(f"\\u{c:04x}" if c < 0x10000 else f"\\U{c:08x}" for c in (first, last))
