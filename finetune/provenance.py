"""What a training run owes to its data: no evaluation that it has seen, and a licence that all sources allow."""

from pathlib import Path
from typing import Any

import yaml

from geotempo import __version__
from geotempo.data_builders.leaks import KINDS, Chosen, Leaks, find_leaks
from geotempo.data_builders.licences import Combined, combine, hub_licence
from geotempo.data_builders.store import Store
from geotempo.finetune.dataset import select
from geotempo.finetune.recipe import DataSection, Recipe
from geotempo.model.errors import ConfigError
from geotempo.model.files import write_text

MOST_NEW = 2000
"""Images that a run looks at by itself, some ten seconds; of more, `geotempo leaks` has to have looked at them before."""
HELD_OUT = ("val", "test")


def examine(section: DataSection) -> Leaks:
    """Compare the samples that are trained on with those of the evaluation, see `DataSection.evaluate`.

    Args:
        section: A recipe's data section.

    Returns:
        What they share and under which licences the training samples stand.

    Raises:
        ConfigError: They share something, and the recipe does not allow it.
        InputError: A store cannot be read.
    """
    stores = {folder: Store(folder) for folder in (*section.stores, *(section.evaluate or ()))}
    train = [(stores[folder], select(stores[folder], section)) for folder in section.stores]
    found = find_leaks(train, _evaluation(section, stores), most_new=MOST_NEW)
    if found.shared and not section.allow_leaks:
        raise ConfigError(refusal(found, section))
    return found


def refusal(found: Leaks, section: DataSection) -> str:
    """Why a run is refused, and what to do."""
    kinds = {shared.kind: shared for shared in reversed(found.shared)}  # the first of each
    listed = "; ".join(f"{words}, e.g. {kinds[kind].name if kind in ('place', 'event') else ''} in {kinds[kind].train} and "
                       f"{kinds[kind].evaluation}".replace("e.g.  in", "e.g.") for kind, words in KINDS.items() if kind in kinds)
    return (f"{found.touched['any']} of {found.evaluation} samples of {', '.join(section.evaluate or section.stores)} (val, test) show "
            f"what training shows ({listed}); a score on them would mean nothing: keep them apart, name other stores in data.evaluate "
            "([] for none), or set data.allow_leaks: true; geotempo leaks TRAIN EVAL lists all")


def licence_of(found: Leaks) -> Combined:
    """What may be done with a model trained on these samples, as far as the data decides it.

    A text that begins with no known identifier, as stores of earlier versions have it, counts as unknown.
    """
    return combine(list(found.licences) or ["unknown"])


def write_model_card(folder: Path, recipe: Recipe, found: Leaks) -> None:
    """README.md of a checkpoint for the Hugging Face Hub: what it was trained on, and under which terms.

    Args:
        folder: The checkpoint.
        recipe: What was trained.
        found: What `examine` gave.
    """
    licence, base = licence_of(found), recipe.model.base
    front: dict[str, Any] = {"license": hub_licence(licence), "pipeline_tag": "image-text-to-text", "library_name": "transformers",
                             "tags": ["remote-sensing", "earth-observation"]}
    if front["license"] == "other":
        front["license_name"] = licence.text
    if base is not None and not Path(base).exists():
        front["base_model"] = base
    leaks = f"{found.touched['any']:,} of {found.evaluation:,} samples of the evaluation show what training shows, by permission of " \
            "the recipe: scores on them mean nothing." if found.shared else "No leak between training and evaluation was found."
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "", "# A model trained with GeoTempo", "",
             f"Trained by GeoTempo {__version__} on {found.train:,} samples of {', '.join(Path(store).name for store in recipe.data.stores)}.", "",
             f"Licence of the training data as a whole: {licence.text}" + (f". The terms of {base} hold besides." if base else "."), "",
             "| licence | samples |", "|---|---|", *(f"| {text} | {count:,} |" for text, count in sorted(found.licences.items())), "",
             leaks if found.evaluation else "No evaluation was compared with training.", ""]
    write_text(folder / "README.md", "\n".join(lines))


def merged_card(card: str, base: str) -> str:
    """The model card of an adapter, for the checkpoint that it was merged into.

    Args:
        card: README.md of the adapter, with or without front matter.
        base: Folder or hub name of the base.
    """
    front, body = split_card(card)
    if front:
        tags = [tag for tag in front.get("tags") or [] if not str(tag).startswith("base_model:adapter:") and tag != "lora"]
        front |= {"library_name": "transformers", "tags": tags}
        if front.get("base_model_relation") == "adapter":
            front["base_model_relation"] = "merge"
    line = f"The adapter is merged into the weights of {Path(base).name if Path(base).exists() else base}: a model of its own."
    return _card(front, f"{body.rstrip()}\n\n{line}\n")


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


def _card(front: dict[str, Any], body: str) -> str:
    head = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}\n---\n\n" if front else ""
    return head + body


def _evaluation(section: DataSection, stores: dict[str, Store]) -> Chosen:
    """Samples that are not trained on: of stores named for it, else what the training stores hold out."""
    chosen = []
    for folder in dict.fromkeys(section.stores if section.evaluate is None else section.evaluate):
        store = stores[folder]
        rows = [row for row in store.rows() if store.facts(row).split in HELD_OUT and
                (folder not in section.stores or store.facts(row).split != section.split)]
        chosen.append((store, rows if rows or folder in section.stores else store.rows()))
    return chosen
