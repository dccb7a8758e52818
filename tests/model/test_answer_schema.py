"""The grammar for structured output accepts what `format` writes and nothing that it would not write."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.model import answer
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Polygon
from geotempo.model.records import Frame, Region, Status

COUNT = 12
FRAMES = [Frame.plain(200, 100)] * COUNT
GRIDS = [1, 7, 9, 10, 19, 99, 100, 101, 448, 504, 999, 1000, 1001, 1036, 2048, 2910, 9998, 9999]

labels = st.text(st.characters(), max_size=20)
regions_st = st.lists(st.builds(
    lambda image, x, y, w, h, label, box: Region(
        image, Box(x, y, x + w, y + h) if box else Polygon(((x, y), (x + w, y), (x, y + h))), label),
    st.integers(1, COUNT), st.integers(0, 99), st.integers(0, 49), st.integers(1, 100), st.integers(1, 50), labels,
    st.booleans()), max_size=6)

BROKEN = {
    "image too large": '[{"image":13,"bbox_2d":[1,2,3,4]}]',
    "image zero": '[{"image":0,"bbox_2d":[1,2,3,4]}]',
    "beyond the grid": '[{"image":1,"bbox_2d":[1,2,3,1001]}]',
    "three numbers": '[{"image":1,"bbox_2d":[1,2,3]}]',
    "leading zero": '[{"image":1,"bbox_2d":[01,2,3,4]}]',
    "float": '[{"image":1,"bbox_2d":[1.0,2,3,4]}]',
    "blank": '[{"image":1, "bbox_2d":[1,2,3,4]}]',
    "trailing comma": '[{"image":1,"bbox_2d":[1,2,3,4]},]',
    "no end": '[{"image":1,"bbox_2d":[1,2,3,4]}',
    "empty label": '[{"image":1,"bbox_2d":[1,2,3,4],"label":""}]',
    "open label": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"a}]',
    "quote in a label": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"a"b"}]',
    "raw newline": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"a\nb"}]',
    "special token": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"</s>"}]',
    "needless escape": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"\\u0061"}]',
    "unknown escape": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"\\x"}]',
    "raw surrogate": '[{"image":1,"bbox_2d":[1,2,3,4],"label":"\ud800"}]',
    "one point": '[{"image":1,"bbox_2d":[1,2,3,4],"points":[[1,2]]}]',
    "fifteen rows": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"ap{"/" * 14}"}}]',
    "seventeen rows": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"ap{"/" * 16}"}}]',
    "seventeenth column": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"aq{"/" * 15}"}}]',
    "half a run": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"apc{"/" * 15}"}}]',
    "nine runs": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"{"aa" * 9}{"/" * 15}"}}]',
    "grid before points": f'[{{"image":1,"bbox_2d":[1,2,3,4],"grid":"ap{"/" * 15}","points":[[1,2],[1,2]]}}]',
    "key order": '[{"bbox_2d":[1,2,3,4],"image":1}]',
    "text after": "[] ",
}
INVALID_DATA = ("image too large", "image zero", "beyond the grid", "three numbers", "float", "one point",
                "fifteen rows", "seventeen rows", "seventeenth column", "half a run", "nine runs")


def to_regex(grammar: str) -> re.Pattern[str]:
    """Compile a non-recursive GBNF grammar to a Python pattern: an interpreter of its own for the notation."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    token = re.compile(r'\s+|(?P<string>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<name>[a-z]+)|'
                       r"(?P<other>[()|?*+]|\{\d+(?:,\d+)?\})")

    def expand(name: str) -> str:
        body, out, position = rules[name], [], 0
        while position < len(body):
            match = token.match(body, position)
            assert match, f"no GBNF at {body[position:]!r}"
            position = match.end()
            if match["string"]:
                out.append("(?:" + re.escape(json.loads(match["string"])) + ")")
            elif match["name"]:
                out.append(expand(match["name"]))
            else:
                other = match["other"] or ""
                out.append(match["set"] or ("(?:" if other == "(" else other))
        return "(?:" + "".join(out) + ")"

    return re.compile(expand("root"))


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """A JSON schema checker for the keywords in use; an unknown keyword fails the test instead of being skipped."""
    known = {"type", "minimum", "maximum", "minItems", "maxItems", "items", "properties", "required",
             "additionalProperties", "enum", "pattern"}
    assert set(schema) <= known, set(schema) - known
    types = {"integer": int, "array": list, "object": dict, "string": str}
    if "type" in schema and (not isinstance(value, types[schema["type"]]) or isinstance(value, bool)):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, int):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, list):
        return (schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
                and all(conforms(entry, schema["items"]) for entry in value))
    if isinstance(value, dict):
        return (set(schema["required"]) <= set(value) <= set(schema["properties"])
                and all(conforms(entry, schema["properties"][key]) for key, entry in value.items()))
    return True


@given(regions_st, st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_written_list_is_in_all_three_grammars(regions, points, grids):
    text = answer.format(regions, FRAMES, points=points, grids=grids)
    assert re.fullmatch(answer.regex(COUNT, points=points, grids=grids), text)
    assert conforms(json.loads(text), answer.json_schema(COUNT, points=points, grids=grids))
    grammar = to_regex(answer.ebnf(COUNT, points=points, grids=grids))
    assert grammar.fullmatch(text) and grammar.fullmatch("Two é were built, 5 m apart.\n" + text)
    assert not to_regex(answer.ebnf(COUNT, points=points, grids=grids, prose=False)).fullmatch("Built.\n" + text)


@given(regions_st, st.sampled_from(GRIDS) | st.integers(1, 9999))
@settings(max_examples=100, deadline=None)
def test_lists_in_any_cells_are_in_the_grammars_of_those_cells(regions, grid):
    text = answer.format(regions, [Frame.plain(200, 100, grid)] * COUNT, points=True)
    assert re.fullmatch(answer.regex(COUNT, points=True, grid=grid), text)
    assert conforms(json.loads(text), answer.json_schema(COUNT, points=True, grid=grid))
    assert to_regex(answer.ebnf(COUNT, points=True, grid=grid)).fullmatch(text)


@pytest.mark.parametrize("grid", GRIDS)
def test_numbers_end_at_the_last_cell(grid):
    """Every number up to the last one is in the grammar, none above it, none with a leading zero."""
    number = re.compile(re.search(r'"bbox_2d":\\\[(.*?\)),', answer.regex(1, grid=grid))[1])
    rule = to_regex(re.sub("^root.*", "root ::= number", answer.ebnf(1, prose=False, grid=grid)))
    for value in range(grid + 1):
        assert number.fullmatch(str(value)) and rule.fullmatch(str(value)), value
    for text in (*map(str, range(grid + 1, min(4 * grid, grid + 300))), str(10 * grid), "10000", "00", "01", "-1", ""):
        assert not number.fullmatch(text) and not rule.fullmatch(text), text


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("more", [False, True])
def test_broken_lists_are_in_none(name, more):
    text = BROKEN[name]
    assert not re.fullmatch(answer.regex(COUNT, points=more, grids=more), text)
    assert not to_regex(answer.ebnf(COUNT, points=more, grids=more)).fullmatch(text)
    assert answer.parse(text, FRAMES).status is not Status.OK, "the reader agrees with the grammar"
    if name in INVALID_DATA:
        assert not conforms(json.loads(text), answer.json_schema(COUNT, points=more, grids=more))


@given(st.from_regex(re.compile(answer.regex(2, points=True, grids=True, max_regions=2)), fullmatch=True))
@settings(max_examples=40, deadline=None)
def test_whatever_the_expression_allows_is_read(text):
    """What a constrained model can write needs no repair but for the order of things, points outside, or an empty grid."""
    read = answer.parse(text, FRAMES[:2])
    assert read.status in (Status.OK, Status.REPAIRED, Status.INVALID)
    allowed = ("swapped", "one cell", "order", "outside", "without a full cell")
    mended = [sentence for sentence in read.repairs if not any(word in sentence for word in allowed)]
    assert not [m for m in mended if "exactly" not in m], read
    if mended and "grid" not in text:  # two escaped surrogates that form a pair are written as one character
        assert "\\ud" in text


def test_grids_only_where_they_are_asked_for():
    text = answer.format([Region(1, Polygon(((10, 10), (90, 10), (90, 90))))], FRAMES, grids=True)
    assert '"grid"' in text
    assert not re.fullmatch(answer.regex(COUNT), text)
    assert not to_regex(answer.ebnf(COUNT)).fullmatch(text)
    assert not conforms(json.loads(text), answer.json_schema(COUNT))


def test_points_only_where_they_are_asked_for():
    text = answer.format([Region(1, Polygon(((10, 10), (90, 10), (90, 90))))], FRAMES, points=True)
    assert '"points"' in text
    assert not re.fullmatch(answer.regex(COUNT), text)
    assert not to_regex(answer.ebnf(COUNT)).fullmatch(text)
    assert not conforms(json.loads(text), answer.json_schema(COUNT))


@pytest.mark.parametrize("most", [0, 1, 2, 32])
def test_no_more_than_max_regions(most):
    for number in (0, most, most + 1):
        text = answer.format([Region(1, Box(0, 0, 9, 9), "x")] * number, FRAMES)
        fits = number <= most
        assert bool(re.fullmatch(answer.regex(COUNT, max_regions=most), text)) == fits
        assert bool(to_regex(answer.ebnf(COUNT, max_regions=most)).fullmatch(text)) == fits
        assert conforms(json.loads(text), answer.json_schema(COUNT, max_regions=most)) == fits


def test_a_closed_set_of_labels():
    schema = answer.json_schema(2, labels=["built", "a <b>"])
    for label, fits in (("built", True), ("a <b>", True), ("gone", False), ("", False)):
        assert conforms(json.loads(answer.format([Region(1, Box(0, 0, 9, 9), label)], FRAMES)), schema) == fits


def test_no_lookarounds_and_no_sentence_that_holds_a_list():
    assert not re.search(r"\(\?[=!<]|\\[1-9bBAZ]\b(?!fnrt)", answer.regex(COUNT, points=True).replace("bfnrt", ""))
    grammar = to_regex(answer.ebnf(COUNT))
    for text in ("[] and\n[]", "{x}\n[]", "one\ntwo\n[]", "\n[]", "Built.", "Built.[]", ""):
        assert not grammar.fullmatch(text)


@pytest.mark.parametrize("write", [answer.json_schema, answer.regex, answer.ebnf])
def test_counts_without_a_grammar_are_refused(write):
    with pytest.raises(InputError, match="image_count is 0"):
        write(0)
    with pytest.raises(InputError, match="max_regions -1"):
        write(1, max_regions=-1)
    for grid in (0, 10000):
        with pytest.raises(InputError, match=f"grid is {grid}"):
            write(1, grid=grid)


def test_labels_must_be_usable():
    for bad in ([], ["a", ""]):
        with pytest.raises(InputError, match="labels"):
            answer.json_schema(1, labels=bad)


@pytest.mark.parametrize("more", [False, True])
def test_xgrammar_reads_them_alike(more):
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar comes with vLLM only")
    accepts = pytest.importorskip("xgrammar.testing")._is_grammar_accept_string
    pattern = xgrammar.Grammar.from_regex(answer.regex(COUNT, points=more, grids=more))
    rules = xgrammar.Grammar.from_ebnf(answer.ebnf(COUNT, points=more, grids=more))
    schema = xgrammar.Grammar.from_json_schema(json.dumps(answer.json_schema(COUNT, points=more, grids=more)),
                                               any_whitespace=False, separators=(",", ":"))
    text = answer.format([Region(12, Box(0, 0, 9, 9), 'a <b> "é漢😀\ud800\x7f\\\u2028\n'), Region(2, Box(0, 0, 9, 9))], FRAMES)
    assert all(accepts(grammar, text) for grammar in (pattern, rules, schema)) and accepts(rules, "Built.\n" + text)
    area = answer.format([Region(1, Polygon(((10, 10), (90, 10), (90, 90))), "a")], FRAMES, points=True, grids=True)
    assert [accepts(grammar, area) for grammar in (pattern, rules, schema)] == [more] * 3
    if more:
        assert not any(accepts(schema, BROKEN[name]) for name in ("fifteen rows", "seventeen rows", "nine runs"))
    big = answer.regex(2, grid=1036), answer.ebnf(2, grid=1036)
    for last, fits in ((1036, True), (1037, False)):
        edge = f'[{{"image":1,"bbox_2d":[0,9,10,{last}]}}]'
        assert accepts(xgrammar.Grammar.from_regex(big[0]), edge) == accepts(xgrammar.Grammar.from_ebnf(big[1]), edge) == fits
    for name, broken in BROKEN.items():
        if name != "raw surrogate":  # no UTF-8 holds one
            assert not accepts(pattern, broken) and not accepts(rules, broken), name
