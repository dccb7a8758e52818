"""Sections of a model card: README.md of a checkpoint, as the Hugging Face Hub shows it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from geotempo.finetune.recipe import Recipe
from geotempo.model.errors import InputError
from geotempo.model.files import write_text

SCORES, USE = "Scores", "Use"


def data_section(recipe: Recipe, licences: Mapping[str, int], fingerprint: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Which stores and licences.

    Args:
        recipe: What was trained.
        licences: Training samples by licence.
        fingerprint: sha256 of every file by store, as `Mixture.fingerprint` has them.
    """
    section = recipe.data
    chosen = [f"split {section.split}", *([f"tasks {', '.join(section.tasks)}"] if section.tasks else [])]
    lines = [f"Stores written by `geotempo build`, {', '.join(chosen)}.", ""]
    lines += [f"* {Path(store).name}" for store in section.stores if store not in fingerprint]
    for store, files in fingerprint.items():
        lines += [f"* {Path(store).name}", *(f"  * `{path}` sha256 `{digest}`" for path, digest in files.items())]
    return _section("Data", [*lines, "", "| licence | samples |", "|---|---|",
                             *(f"| {text} | {count:,} |" for text, count in sorted(licences.items()))])


def method_section(recipe: Recipe, record: Mapping[str, Any]) -> list[str]:
    """How it was trained, in the terms of the papers.

    Args:
        recipe: What was trained.
        record: `recipe.yaml` of the run: trainable parameters, versions; may be empty.
    """
    model, lora, train = recipe.model, recipe.lora, recipe.train
    rows: list[tuple[str, object]] = [("start", model.base or "composed, random or from parts: see the recipe")]
    if lora:
        kinds = [word for word, used in (("rsLoRA", lora.rslora), ("DoRA", lora.dora)) if used] or ["LoRA"]
        where = f"{', '.join(lora.targets)} of the language model"
        rows += [("adapters", f"{' with '.join(kinds)}, rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}, on {where}")]
        rows += [("projector", "trained in full")] if lora.projector else []
        rows += [("token embeddings", "trained in full")] if lora.embeddings else []
    else:
        rows += [("weights", "trained in full" + (f", except {', '.join(model.freeze)}" if model.freeze else ""))]
    rows += [("base in memory", f"{model.quantize} (QLoRA)")] if model.quantize else []
    rows += [("vision encoder", f"last {model.vision_blocks} blocks trained")] if model.vision_blocks else []
    rows += [("packing", f"up to {recipe.data.pack_tokens:,} tokens a row")] if recipe.data.pack_tokens else []
    if "trainable_parameters" in record:
        rows += [("trainable parameters", f"{record['trainable_parameters']:,}")]
    known = ("learning_rate", "lr_scheduler_type", "num_train_epochs", "max_steps", "per_device_train_batch_size",
             "gradient_accumulation_steps", "seed")
    rows += [(name.replace("_", " "), train[name]) for name in known if name in train]
    rows += [("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items()))] if "versions" in record else []
    return _section("Method", ["Loss on the tokens of the answers only.", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def losses_section(run: Path) -> list[str]:
    """First and last losses of a run, from its newest checkpoint; nothing where there is none."""
    histories = []
    for path in run.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            histories.append((int(state["global_step"]), state["log_history"]))
        except (OSError, ValueError, KeyError):
            continue  # killed while saving
    if not histories:
        return []
    steps, history = max(histories, key=lambda pair: pair[0])
    rows = []
    for key, what in (("loss", "training loss"), ("eval_loss", "loss on held-out samples")):
        seen = [(entry["step"], entry[key]) for entry in history if key in entry]
        if seen:
            rows.append(f"| {what} | {seen[0][1]:.4f} (step {seen[0][0]:,}) | {seen[-1][1]:.4f} (step {seen[-1][0]:,}) |")
    return _section("Losses", [f"{steps:,} steps.", "", "| | first | last |", "|---|---|---|", *rows]) if rows else []


def scores_section(results: Mapping[str, Any]) -> list[str]:
    """Scores of an evaluation, times 100, with 95 % bootstrap intervals.

    Args:
        results: `results.json` of `geotempo eval`.

    Raises:
        InputError: It is something else.
    """
    try:
        head = f"By `geotempo eval` on {Path(results['data']).name} (sha256 `{results['data_sha256'][:12]}`)"
        head += f", control {results['control']}" if results["control"] else ""
        head += "; a selection of the split, which does not compare with the whole" if results["partial"] else ""
        rows = [f"| {task} ({results['protocol'][task]}) | {metric['title']} | {metric['value']:.2f} | "
                f"{metric['low']:.2f} to {metric['high']:.2f} | {metric['n']:,} |"
                for task, metrics in results["tasks"].items() for metric in metrics.values()]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError("the scores are not a results.json as geotempo eval writes it") from None
    return _section(SCORES, [f"{head}.", "", "| task (protocol) | metric | score | 95 % interval | samples |", "|---|---|---|---|---|", *rows])


def use_section(adapter: bool) -> list[str]:
    """How to ask it; an adapter needs its base beside it."""
    if adapter:
        lines = ["geotempo export ADAPTER --vllm       # checks it and prints the command that serves it on its base",
                 "geotempo merge ADAPTER --out MODEL   # or one model, for any engine"]
    else:
        lines = ["geotempo predict BEFORE.tif AFTER.tif --prompt 'What changed?' --model MODEL", "vllm serve MODEL"]
    return _section(USE, ["```bash", *lines, "```"])


def recipe_section(recipe: Recipe) -> list[str]:
    """The recipe with all its defaults."""
    plain = json.loads(json.dumps(recipe.to_dict(), default=str))
    return _section("Recipe", ["```yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).strip(), "```"])


def add_scores(folder: Path, results: Path) -> None:
    """Put an evaluation's scores into the model card of a checkpoint, in place of older ones.

    Args:
        folder: The checkpoint.
        results: `results.json` of `geotempo eval`.

    Raises:
        InputError: The file cannot be read or is no `results.json`.
    """
    write_text(folder / "README.md", with_section(_read(folder / "README.md"), scores_section(read_results(results))))


def read_results(path: Path) -> dict[str, Any]:
    """Read a `results.json`.

    Raises:
        InputError: It cannot be read.
    """
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the scores {str(path)!r}: {error}") from None
    return read


def with_section(card: str, section: Sequence[str]) -> str:
    """A card with a section replaced, or added at its end."""
    text = "\n".join(section).rstrip("\n") + "\n"
    old = re.search(rf"^{re.escape(section[0])}$.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    if old is None:
        return f"{card.rstrip()}\n\n{text}"
    rest = card[old.end() :]
    return card[: old.start()] + text + (f"\n{rest}" if rest else "")


def merged_card(card: str, base: str) -> str:
    """The model card of an adapter, for the checkpoint that it was merged into.

    Args:
        card: README.md of the adapter, with or without front matter.
        base: Folder or hub name of the base.
    """
    front, body = split_card(card)
    tags = [tag for tag in front.get("tags") or [] if tag != "lora" and not str(tag).startswith("base_model:adapter:")]
    front |= {"library_name": "transformers", **({"tags": tags} if tags else {})}
    if front.get("base_model_relation") == "adapter":
        front["base_model_relation"] = "merge"
    name = Path(base).name if Path(base).exists() else base
    merge = _section("Merged", [f"The adapter is merged into the weights of {name}: a model of its own."])
    return join_card(front, with_section(with_section(body, use_section(adapter=False)), merge))


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of a model card; no front matter is an empty one."""
    parts = card.split("---\n", 2)
    if len(parts) == 3 and not parts[0].strip():
        try:
            front = yaml.safe_load(parts[1])
        except yaml.YAMLError:
            front = None
        if isinstance(front, dict):
            return front, parts[2].lstrip("\n")
    return {}, card


def join_card(front: Mapping[str, Any], body: str) -> str:
    """A model card from front matter and text."""
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True).strip()}\n---\n\n{body}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else "# A model trained with GeoTempo\n"
