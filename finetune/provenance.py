"""What a training run owes to its data: no evaluation that it has seen, and a licence that all sources allow."""

from pathlib import Path
from typing import Any

import yaml

from geotempo import __version__
from geotempo.data_builders.leaks import KINDS, Chosen, Leaks, find_leaks
from geotempo.data_builders.licences import Combined, combine, hub_licence
from geotempo.data_builders.store import Store
from geotempo.finetune.dataset import select
from geotempo.finetune.model_card import (
    data_section,
    join_card,
    losses_section,
    method_section,
    read_results,
    recipe_section,
    scores_section,
    use_section,
)
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


def write_model_card(folder: Path, recipe: Recipe, found: Leaks, scores: Path | None = None) -> None:
    """README.md of a checkpoint for the Hugging Face Hub: what it was trained on and how, what it reaches, and under which terms.

    Hashes of the data and versions come from `recipe.yaml` of the run's folder, losses from its newest checkpoint, where
    these are there.

    Args:
        folder: The checkpoint: `adapter` or `final` in the run's folder.
        recipe: What was trained.
        found: What `examine` gave.
        scores: `results.json` of `geotempo eval` on this checkpoint.
    """
    licence, base = licence_of(found), recipe.model.base
    adapter = (folder / "adapter_config.json").is_file()
    front: dict[str, Any] = {"license": hub_licence(licence), "pipeline_tag": "image-text-to-text",
                             "library_name": "peft" if adapter else "transformers", "tags": ["remote-sensing", "earth-observation"]}
    if front["license"] == "other":
        front["license_name"] = licence.text
    if base is not None and not Path(base).exists():
        front |= {"base_model": base} | ({"base_model_relation": "adapter"} if adapter else {})
    leaks = f"{found.touched['any']:,} of {found.evaluation:,} samples of the evaluation show what training shows, by permission of " \
            "the recipe: scores on them mean nothing." if found.shared else "No leak between training and evaluation was found."
    record = _record(folder.parent)
    lines = ["# A model trained with GeoTempo", "",
             f"Trained by GeoTempo {__version__} on {found.train:,} samples of {', '.join(Path(store).name for store in recipe.data.stores)}.", "",
             f"Licence of the training data as a whole: {licence.text}" + (f". The terms of {base} hold besides." if base else "."), "",
             leaks if found.evaluation else "No evaluation was compared with training.", "",
             *data_section(recipe, found.licences, record.get("data") or {}), *method_section(recipe, record), *losses_section(folder.parent),
             *(scores_section(read_results(scores)) if scores else []), *use_section(adapter), *recipe_section(recipe)]
    write_text(folder / "README.md", join_card(front, "\n".join(lines)))


def _record(run: Path) -> dict[str, Any]:
    """`recipe.yaml` of a run; empty where there is none."""
    path = run / "recipe.yaml"
    read = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return read if isinstance(read, dict) else {}


def _evaluation(section: DataSection, stores: dict[str, Store]) -> Chosen:
    """Samples that are not trained on: of stores named for it, else what the training stores hold out."""
    chosen = []
    for folder in dict.fromkeys(section.stores if section.evaluate is None else section.evaluate):
        store = stores[folder]
        rows = [row for row in store.rows() if store.facts(row).split in HELD_OUT and
                (folder not in section.stores or store.facts(row).split != section.split)]
        chosen.append((store, rows if rows or folder in section.stores else store.rows()))
    return chosen
