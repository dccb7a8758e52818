"""Does a LoRA run on the embedded model learn LEVIR-MCI? From the store to the tables (OUT/report.md). Not a test; run it by hand.

    geotempo build levir-mci --root LEVIR-MCI --out data/levir-mci
    python tests/bench/levir_lora.py --data data/levir-mci --out runs/levir_lora      # killed, the same command goes on

Per seed two runs of `finetune/recipes/levir_lora.yaml`: as it is, and the text-only control, which is trained and asked with
mid-grey images. They are asked on split val together with the base, a constant caption and the majority answer, and
compared by `geotempo compare`, which draws image pairs and seeds. Then the order of the images is turned round: LEVIR's captions
never say "demolished", so for its adapters the share of answers that no longer say "built" is reported; the base is asked
about scenes, whose captions say both.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geotempo.eval.predictions import PREDICTIONS, read_lines
from geotempo.eval.score import RESULTS
from geotempo.model.files import write_text

RECIPE = Path(__file__).parents[2] / "finetune" / "recipes" / "levir_lora.yaml"
BASE = Path(__file__).parents[2] / "model" / "weights" / "geotempo_tiny"
TASKS = ("change_caption", "change_vqa")
CONSTANT = "the scene is the same as before"
METRICS = (("change_caption", "bleu4"), ("change_caption", "cider_d"), ("change_vqa", "accuracy"))
_BUILT, _DEMOLISHED = re.compile(r"\bbuilt\b"), re.compile(r"\bdemolished\b")


def geotempo(*arguments: object) -> str:
    """Run a command of geotempo; its progress goes to the terminal, its output is returned."""
    done = subprocess.run([sys.executable, "-m", "geotempo", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def train(out: Path, data: Path, seed: int, extra: Sequence[str]) -> Path:
    """One run of the recipe, unless it is finished."""
    if not (out / "final" / "config.json").is_file():
        geotempo("train", RECIPE, f"model.base={BASE}", f"data.store={data}", f"train.seed={seed}", f"train.output_dir={out}", *extra)
    return out / "final"


def ask(out: Path, data: Path, tasks: Sequence[str], *options: object) -> Path:
    """One evaluation on split val; a finished one is not asked again."""
    if not (out / RESULTS).is_file():
        geotempo("eval", *tasks, "--data", data, "--split", "val", "--out", out, *options)
    return out


def row(name: str, runs: Sequence[Path]) -> str:
    """A line of the table: means over the runs, single values in brackets."""
    cells = []
    for task, metric in METRICS:
        found: list[dict[str, Any]] = [json.loads((run / RESULTS).read_text())["tasks"].get(task, {}).get(metric, {}) for run in runs]
        values = [entry["value"] for entry in found if entry]
        each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
        cells.append(f"{sum(values) / len(values):.1f}{each}" if values else "-")
    return f"| {name} | {' | '.join(cells)} |"


def turned(plain: Path, reversed_: Path) -> str:
    """What became of the answers that say "built" when the order of the images is turned round."""
    before, after = ({row["id"]: str(row["text"]).lower() for row in read_lines(run / PREDICTIONS) if row["task"] == "change_caption"}
                     for run in (plain, reversed_))
    said = [name for name, text in before.items() if _BUILT.search(text)]
    silent = sum(not _BUILT.search(after[name]) for name in said)
    other = sum(bool(_DEMOLISHED.search(after[name])) for name in said)
    share = f"{100 * silent / len(said):.1f} %" if said else "-"
    return f"{len(said)} of {len(before)} answers say built; of these {share} no longer do so, {other} say demolished"


def main() -> None:
    """Train, ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/levir-mci"), help="store of `geotempo build levir-mci`")
    parser.add_argument("--out", type=Path, default=Path("runs/levir_lora"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", help="section.key=value for the recipe")
    given = parser.parse_args()
    out, data, seeds = given.out, given.data, given.seeds
    base = ask(out / "base", data, TASKS, "--model", BASE)
    constant = ask(out / "constant", data, TASKS[:1], "--answers", f"constant:{CONSTANT}")
    majority = ask(out / "majority", data, TASKS, "--answers", "majority")
    tuned, blank, texts, back = [], [], [], []
    for seed in seeds:
        model = train(out / f"lora-{seed}", data, seed, given.overrides)
        tuned.append(ask(out / f"lora-{seed}" / "val", data, TASKS, "--model", model))
        blank.append(ask(out / f"lora-{seed}" / "blank", data, TASKS, "--model", model, "--control", "blank"))
        back.append(ask(out / f"lora-{seed}" / "reversed", data, TASKS[:1], "--model", model, "--control", "reversed"))
        model = train(out / f"text-{seed}", data, seed, ["data.augment.blank=true", *given.overrides])
        texts.append(ask(out / f"text-{seed}" / "blank", data, TASKS, "--model", model, "--control", "blank"))
    others = {"base": [base], f'constant: "{CONSTANT}"': [constant], "majority answer": [majority],
              "text-only control: trained and asked without images": texts, "LoRA asked without images": blank}
    lines = ["| val | BLEU-4 | CIDEr-D | yes/no accuracy |", "|---|---|---|---|",
             *(row(name, runs) for name, runs in others.items()), row("**LoRA**", tuned)]
    for name, runs in others.items():
        lines += ["", f"LoRA against {name}", "", geotempo("compare", *tuned, "--against", *runs).partition("\n\n")[2].strip()]
    lines += ["", "Order of the images turned round, LEVIR val:"]
    lines += [f"- seed {seed}: {turned(plain, other)}" for seed, plain, other in zip(seeds, tuned, back, strict=True)]
    lines += ["", "Order of the images turned round, scenes, base:", f"- {scenes(out)}"]
    write_text(out / "report.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def scenes(out: Path) -> str:
    """The base on scenes, whose captions name both directions of time."""
    store = out / "scenes"
    if not (store / "manifest.json").is_file():
        geotempo("build", "scenes", "easy=true", "count=50", "seed=99", "val_share=1", "--out", store)
    plain = ask(out / "scenes-plain", store, TASKS[:1], "--model", BASE)
    return turned(plain, ask(out / "scenes-reversed", store, TASKS[:1], "--model", BASE, "--control", "reversed"))


if __name__ == "__main__":
    main()
