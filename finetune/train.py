"""Training from a recipe, read top to bottom: model, data, adapter, Trainer, final checkpoint."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments, set_seed
from transformers.utils import logging

from geotempo import __version__
from geotempo.data_builders.leaks import Leaks
from geotempo.data_builders.render import store_texts
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import Mixture
from geotempo.finetune.provenance import examine, licence_of, write_model_card
from geotempo.finetune.recipe import LoraSection, ModelSection, Recipe, check_keys
from geotempo.finetune.trainer import GeoTempoTrainer, freeze, last_checkpoint
from geotempo.model.bases import base_of, convention_of, lora_modules
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.errors import ConfigError, MissingExtraError
from geotempo.model.files import write_text

# Ours where TrainingArguments' own default would surprise: the batch is built by our collator, runs are reproducible.
_DEFAULTS: dict[str, Any] = {"remove_unused_columns": False, "report_to": "none", "seed": 0, "logging_steps": 10,
                             "save_total_limit": 2, "use_cpu": not torch.cuda.is_available()}


def train(recipe: Recipe, *, restart: bool = False) -> Path:
    """Run a recipe; goes on from the last checkpoint in `output_dir` unless `restart` is set.

    Args:
        recipe: A checked recipe.
        restart: Ignore checkpoints of an earlier run.

    Returns:
        Folder of the final checkpoint, loadable by transformers and vLLM (`output_dir/final`).

    Raises:
        ConfigError: A key or value of the recipe is wrong, or training shares with its evaluation what the recipe does not
            allow.
        InputError: The store lacks what the recipe asks for.
        ModelError: The base cannot be loaded.
    """
    logging.set_verbosity_error()
    args = training_arguments(recipe.train)
    set_seed(args.seed)
    found = examine(recipe.data)
    model, processor = build_model(recipe.model, recipe.data.stores)
    dataset = Mixture(recipe.data, processor, args.seed, convention_of(model.config, processor))
    freeze(model, recipe.model.freeze)
    trained = _add_lora(model, recipe.lora) if recipe.lora else model
    trainer = GeoTempoTrainer(
        model=trained, args=args, train_dataset=dataset, learning_rates=recipe.model.learning_rates,
        data_collator=Collator(processor.tokenizer.pad_token_id, model.config.text_config.max_position_embeddings),
    )
    out = Path(args.output_dir)
    _record(recipe, dataset, trained, found, out)
    resume = None if restart else last_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if recipe.lora:
        if not recipe.lora.projector:
            trained.save_pretrained(out / "adapter")
            write_model_card(out / "adapter", recipe, found)
        model = trained.merge_and_unload()
    save_checkpoint(model, processor, out / "final", getattr(torch, recipe.model.save_dtype))
    write_model_card(out / "final", recipe, found)
    return out / "final"


def training_arguments(given: dict[str, Any]) -> TrainingArguments:
    """`TrainingArguments` from the recipe's `train` section, over our defaults.

    Raises:
        ConfigError: An unknown key (with the nearest known one) or a value that TrainingArguments refuses.
    """
    check_keys(given, [f.name for f in dataclasses.fields(TrainingArguments) if f.init], "train")
    try:
        return TrainingArguments(**(_DEFAULTS | given))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"section 'train': {str(error).splitlines()[0]}") from None


def build_model(section: ModelSection, corpora: Sequence[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a recipe starts from: a checkpoint, or a composition.

    Args:
        section: The recipe's model section.
        corpora: Stores whose texts train the tokenizer of a tiny LLM.
    """
    if section.base is not None:
        return load_checkpoint(section.base, max_pixels=section.max_pixels)
    assert section.compose is not None
    check_keys(section.compose, [f.name for f in dataclasses.fields(Composition)], "model.compose")
    spec = Composition(**section.compose)
    return compose(spec, [text for corpus in corpora for text in store_texts(Path(corpus))])


def _add_lora(model: PreTrainedModel, section: LoraSection) -> Any:
    """Adapters on the LLM only: vLLM silently ignores adapters on the projector, which is trained in full or not at all."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train", "LoRA training") from None
    base = base_of(model.config, str(model.config.name_or_path))
    config = LoraConfig(r=section.r, lora_alpha=section.alpha, lora_dropout=section.dropout,
                        target_modules=lora_modules(base, tuple(section.targets)), task_type="CAUSAL_LM",
                        modules_to_save=[base.projector] if section.projector else None)
    return get_peft_model(model, config)


def _record(recipe: Recipe, dataset: Mixture, model: PreTrainedModel, found: Leaks, out: Path) -> None:
    """Write the resolved recipe, versions, data hashes, licence and leaks beside the checkpoints."""
    packages = ("torch", "transformers", "peft", "accelerate", "datasets")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    record = {
        "recipe": recipe.to_dict(), "samples": len(dataset), "data": dataset.fingerprint, "trainable_parameters": trainable,
        "licence": licence_of(found).text, "leaks": {"evaluation": found.evaluation, **found.touched, "not_looked_at": found.not_looked_at},
        "versions": {"geotempo": __version__} | {name: importlib.metadata.version(name) for name in packages},
    }
    write_text(out / "recipe.yaml", yaml.safe_dump(_plain(record), sort_keys=False))
    print(f"training on {len(dataset)} samples of {', '.join(recipe.data.stores)}, {trainable / 1e6:.2f} M trainable parameters")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
