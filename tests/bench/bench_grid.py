"""How a 16 x 16 grid is best written: tokens, and what is left after slips. Not a test; run it by hand.

    python tests/bench/bench_grid.py ../shared/data [tokenizer.json or tokenizer.model ...]

Grids of LEVIR-MCI (150 label images, instances of 64 pixels or more), OSCD (16 or more) and of floods and clearings of
60 scenes. A slip moves a symbol by one in the form's own alphabet.
"""

import random
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from geotempo.data_builders.instances import components
from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.data_builders.source import load_labels
from geotempo.model.answer_cells import COLUMNS, Cells, to_cells, write_cells
from geotempo.model.geometry import BoolArray, Mask, bounds

HEX = "0123456789abcdef"
SLIPS, TRIES = 4, 5
AROUND = '{"image":2,"bbox_2d":[100,200,300,400]%s,"label":"flooded area"}'


def masks(data: Path) -> Iterator[BoolArray]:
    """Real and procedural change."""
    for path in sorted((data / "LEVIR-MCI_subset").glob("images/*/label/*"))[:150]:
        labels = load_labels(path)
        yield from (part for value in (255, 128) for part in components(labels == value) if part.sum() >= 64)
    for path in sorted((data / "OSCD").glob("*Labels/*/cm/cm.png")):
        yield from (part for part in components(np.asarray(Image.open(path))[..., 0] > 127) if part.sum() >= 16)
    for index in range(60):
        for sample in scene_samples(3, index, size=256):
            if sample.task == "change_segmentation":
                yield from (region.geometry.to_array() for region in sample.target_regions or ()
                            if isinstance(region.geometry, Mask) and region.label in ("flooded area", "cleared forest"))


def runs(row: tuple[bool, ...]) -> list[tuple[bool, int]]:
    """Values and lengths."""
    return [(value, len(list(group))) for value, group in groupby(row)]


def lengths(cells: Cells) -> str:
    """Per row, empty and full run lengths as letters; `a` is an empty run of none, `b` one cell."""
    rows = []
    for row in cells:
        text, empty = "", 0
        for full, count in runs(row):
            if full:
                text += chr(97 + empty) + chr(97 + count)
            empty = 0 if full else count
        rows.append(text)
    return "/".join(rows)


def read_lengths(text: str) -> BoolArray:
    """Inverse of `lengths`."""
    array = np.zeros((16, 16), dtype=np.bool_)
    for y, row in enumerate(text.split("/")):
        x = 0
        for empty, full in zip(row[::2], row[1::2], strict=True):
            x += ord(empty) - 97
            array[y, x : x + ord(full) - 97] = True
            x += ord(full) - 97
    return array


def read_ends(text: str) -> BoolArray:
    """Inverse of `write_cells`."""
    array = np.zeros((16, 16), dtype=np.bool_)
    for y, row in enumerate(text.split("/")):
        for pair in zip(row[::2], row[1::2], strict=True):
            first, last = sorted(map(COLUMNS.index, pair))
            array[y, first : last + 1] = True
    return array


def hexadecimal(cells: Cells) -> str:
    """Four digits a row."""
    return "".join(f"{int(''.join('01'[cell] for cell in row), 2):04x}" for row in cells)


def read_hexadecimal(text: str) -> BoolArray:
    """Inverse of `hexadecimal`."""
    return np.array([[bit == "1" for bit in f"{int(text[i : i + 4], 16):016b}"] for i in range(0, 64, 4)])


def whole(cells: Cells) -> str:
    """Run lengths of the whole grid, row after row, in digits; the first one is empty."""
    flat = tuple(cell for row in cells for cell in row)
    return ",".join((["0"] if flat[0] else []) + [str(count) for _, count in runs(flat)])


def read_whole(text: str) -> BoolArray:
    """Inverse of `whole`."""
    flat = [bool(i % 2) for i, count in enumerate(text.split(",")) for _ in range(int(count or 0))]
    return np.array((flat + [False] * 256)[:256]).reshape(16, 16)


def text4seg(cells: Cells) -> str:
    """Row-wise run lengths with labels, as Text4Seg writes them."""
    return "\n".join("| ".join(f"{'flood' if full else 'others'} *{count}" for full, count in runs(row)) for row in cells)


FORMS: dict[str, tuple[Callable[[Cells], str], Callable[[str], BoolArray] | None, str]] = {
    "first and last column, letters": (write_cells, read_ends, COLUMNS),
    "run lengths, letters": (lengths, read_lengths, COLUMNS + "q"),
    "rows in hexadecimal": (hexadecimal, read_hexadecimal, HEX),
    "run lengths of the whole, digits": (whole, read_whole, HEX[:10]),
    "Text4Seg": (text4seg, None, ""),
}


def slipped(text: str, alphabet: str) -> str:
    """The text with some symbols moved by one."""
    symbols = list(text)
    for place in random.sample([i for i, symbol in enumerate(text) if symbol in alphabet], SLIPS):
        moved = alphabet.index(symbols[place]) + random.choice((-1, 1))
        symbols[place] = alphabet[min(max(moved, 0), len(alphabet) - 1)]
    return "".join(symbols)


def robustness(grids: list[Cells], form: str) -> float:
    """Mean IoU of a grid with itself after slips."""
    write, read, alphabet = FORMS[form]
    assert read is not None
    scores = []
    for cells in grids:
        truth, text = np.array(cells), write(cells)
        assert np.array_equal(read(text), truth)
        for _ in range(TRIES):
            made = read(slipped(text, alphabet))
            scores.append((made & truth).sum() / (made | truth).sum())
    return float(np.mean(scores))


def counter(path: Path) -> Callable[[str], int]:
    """Tokens of a text."""
    if path.suffix == ".model":
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(path))
        return lambda text: len(pieces.encode(text))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def main() -> None:
    """Print a Markdown table."""
    own = Path(__file__).parents[2] / "model" / "weights" / "geotempo_tiny" / "tokenizer.json"
    counters = [counter(path) for path in (own, *map(Path, sys.argv[2:]))]
    grids = [cells for array in masks(Path(sys.argv[1])) for cells in [to_cells(Mask.from_array(array), bounds(Mask.from_array(array)))]
             if cells]
    names = ["geotempo_tiny", *sys.argv[2:]]
    print(f"{len(grids)} grids\n\n| form | characters | tokens: {' | '.join(names)} | IoU after {SLIPS} slips |")
    print("|" + "---|" * (3 + len(names)))
    for form, (write, read, _) in FORMS.items():
        random.seed(0)
        texts = [write(cells) for cells in grids]
        means = [np.mean([count(AROUND % f',"grid":"{text}"') - count(AROUND % "") for text in texts]) for count in counters]
        left = f"{100 * robustness(grids, form):.1f}" if read else ""
        print(f"| {form} | {np.mean([len(text) for text in texts]):.0f} | {' | '.join(f'{mean:.1f}' for mean in means)} | {left} |")


if __name__ == "__main__":
    main()
