"""Training from a recipe, read top to bottom: model, data, adapter, Trainer, final checkpoint."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments, set_seed
from transformers.utils import logging

from geotempo.data_builders.leaks import Leaks
from geotempo.data_builders.render import store_texts
from geotempo.finetune import scale
from geotempo.finetune.adapters import merge_adapter
from geotempo.finetune.collate import Collator
from geotempo.finetune.dataset import Mixture, held_out
from geotempo.finetune.lengths import Lengths, measure, set_aside
from geotempo.finetune.loggers import check_loggers
from geotempo.finetune.methods import add_lora, choose_attention, choose_dtype, freeze, liger_default, quantization
from geotempo.finetune.observe import observe
from geotempo.finetune.packing import PackedDataset, positions_for
from geotempo.finetune.provenance import examine, write_model_card
from geotempo.finetune.recipe import ModelSection, Recipe, check_keys
from geotempo.finetune.record import (
    Recorder,
    copy_record,
    forget_checkpoints,
    record,
    refuse_changes,
    told,
    write_record,
)
from geotempo.finetune.scale import needs_stand_in, stand_in
from geotempo.finetune.trainer import GeoTempoTrainer, last_checkpoint
from geotempo.model.bases import base_of, convention_of
from geotempo.model.checkpoints import load_checkpoint, load_processor, save_checkpoint
from geotempo.model.compose import Composition, compose
from geotempo.model.errors import ConfigError

# Ours where TrainingArguments' own default would surprise: the batch is built by our collator, runs are reproducible.
_DEFAULTS: dict[str, Any] = {"remove_unused_columns": False, "report_to": "tensorboard", "seed": 0, "logging_steps": 10,
                             "save_total_limit": 2, "use_cpu": not torch.cuda.is_available(), "prediction_loss_only": True,
                             "include_num_input_tokens_seen": "non_padding", "project": "geotempo"}


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
    with scale.first_process_prints():
        return _train(recipe, restart)


def _train(recipe: Recipe, restart: bool) -> Path:
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # of loading and saving: a run has one line of its own
    args = training_arguments(recipe.train)
    check_loggers(args.report_to)
    scale.start(args, recipe.model.quantize)
    set_seed(args.seed)
    with args.main_process_first(local=False):
        found = examine(recipe.data)
    model, processor = build_model(recipe, args)
    freeze(model, recipe.model)
    set_seed(args.seed)  # adapters begin alike on all processes, however many draws the base took
    trained = add_lora(model, recipe.lora, recipe.model.vision_blocks) if recipe.lora else model
    with args.main_process_first(local=False):  # the others read the lengths that the first has counted
        data = build_data(recipe, args, trained, processor)
    scale.wrap_layers(trained, args)
    trainer = GeoTempoTrainer(
        model=trained, args=args, train_dataset=data.train, eval_dataset=data.evaluation, data_collator=data.collator,
        learning_rates=recipe.model.learning_rates, lengths=data.lengths.tolist(),
    )
    observe(trainer, recipe, processor)
    out, facts = Path(args.output_dir), record(recipe, args, data.mixture, trained, found)
    resume = scale.agreed(None if restart else last_checkpoint(out))
    if resume:
        for line in told(refuse_changes(facts, resume)):
            print(line)
        scale.prepare_resume(trainer, resume)
    if args.process_index == 0:
        if restart:
            forget_checkpoints(out)
        write_record(facts, out)
    trainer.add_callback(Recorder(facts))
    print(f"training on {facts['samples']:,} samples of {', '.join(recipe.data.stores)}, "
          f"{facts['trainable_parameters'] / 1e6:.2f} M trainable parameters")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    weights = scale.gather_weights(trainer.model, args)
    if weights is not None:  # the first process
        sharded = scale.sharding_of(args) in ("zero3", "fsdp2")
        finish(recipe, found, _whole(recipe, args, weights) if sharded else trained, processor, out)
    scale.wait()
    return out / "final"


def _whole(recipe: Recipe, args: TrainingArguments, weights: Mapping[str, torch.Tensor]) -> Any:
    """The trained model, with its adapters, in one piece, where its weights were split between processes."""
    with scale.unsharded():
        model, _ = build_model(recipe, args)
        whole = add_lora(model, recipe.lora, recipe.model.vision_blocks) if recipe.lora else model
    whole.load_state_dict(weights)
    return whole


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
        mixture: The samples.
        train: The mixture, or packs of it.
        evaluation: Held-out samples for the loss; None where `train.eval_strategy` is `no`.
        lengths: Tokens of each sample of the mixture.
        collator: Makes batches of them.
    """

    mixture: Mixture
    train: Mixture | PackedDataset
    evaluation: Mixture | None
    lengths: Lengths
    collator: Collator


def build_data(recipe: Recipe, args: TrainingArguments, model: PreTrainedModel, processor: ProcessorMixin) -> Data:
    """Select and count the samples of a recipe, set aside what does not fit, and pack them if the recipe says so.

    Raises:
        ConfigError: Packing together with `group_by_length`, or an evaluation without held-out samples.
        InputError: No sample fits.
    """
    section, limit = recipe.data, model.config.text_config.max_position_embeddings
    if section.pack_tokens and args.train_sampling_strategy == "group_by_length":
        raise ConfigError("packs are of one length already; leave out train.train_sampling_strategy or data.pack_tokens")
    convention, out = convention_of(model.config, processor), Path(args.output_dir)
    mixture = Mixture(section, processor, args.seed, convention)
    lengths = set_aside(mixture, measure(mixture, processor, section, out / "lengths.npy"), section, limit, out / "set_aside.jsonl")
    evaluation = None
    if args.eval_strategy != "no":
        evaluation = held_out(section, processor, args.seed, convention)
        if evaluation is None:
            raise ConfigError(f"train.eval_strategy is {str(args.eval_strategy.value)!r}, but no store of {', '.join(section.stores)} "
                              "and data.evaluate has samples in split val; name stores in data.evaluate or set it to no")
    train: Mixture | PackedDataset = mixture
    if section.pack_tokens:
        train = PackedDataset(mixture, lengths.tolist(), section.pack_tokens, section.pack_images, args.seed)
        print(f"{train.fill.samples:,} samples in {train.fill.packs:,} packs of up to {section.pack_tokens:,} tokens, "
              f"{100 * train.fill.share:.1f} % full")
    counts = [*mixture.image_counts, *(evaluation.image_counts if evaluation else ())]
    blank = stand_in(processor) if needs_stand_in(args, model, counts) else None
    collator = Collator(processor.tokenizer.pad_token_id, limit, positions_for(model.config) if section.pack_tokens else None, blank)
    return Data(mixture, train, evaluation, lengths, collator)


def finish(recipe: Recipe, found: Leaks, trained: Any, processor: ProcessorMixin, out: Path) -> Path:
    """Write what a run leaves: `adapter` where an engine can serve it, and `final`, the whole model with adapters merged.

    Returns:
        `out/final`.
    """
    model, dtype = trained, getattr(torch, recipe.model.save_dtype)
    if recipe.lora:
        servable = not (recipe.lora.projector or recipe.lora.embeddings or recipe.model.vision_blocks)
        if servable or recipe.model.quantize:
            trained.save_pretrained(out / "adapter")
            processor.save_pretrained(out / "adapter")
            write_model_card(out / "adapter", recipe, found)
            copy_record(out, out / "adapter")
        if not recipe.model.quantize:
            model = trained.merge_and_unload()
    if recipe.model.quantize:  # never into the quantised weights: their rounding would stay in the model
        merge_adapter(out / "adapter", out / "final", base=recipe.model.base)
    else:
        save_checkpoint(model, processor, out / "final", dtype)
    write_model_card(out / "final", recipe, found)
    copy_record(out, out / "final")
    return out / "final"


def training_arguments(given: dict[str, Any]) -> TrainingArguments:
    """`TrainingArguments` from the recipe's `train` section, over our defaults.

    Raises:
        ConfigError: An unknown key (with the nearest known one) or a value that TrainingArguments refuses.
    """
    check_keys(given, [f.name for f in dataclasses.fields(TrainingArguments) if f.init], "train")
    # YAML 1.1 reads a bare `no` as false.
    given = {key: "no" if key.endswith("_strategy") and value is False else value for key, value in scale.resolve(given).items()}
    defaults = _DEFAULTS | {"run_name": Path(given["output_dir"]).name,
                            "use_liger_kernel": liger_default(cuda=not given.get("use_cpu", _DEFAULTS["use_cpu"]))}
    try:
        return TrainingArguments(**(defaults | given))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"section 'train': {str(error).splitlines()[0]}") from None


def build_model(recipe: Recipe, args: TrainingArguments) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a recipe starts from, a checkpoint or a composition, and how it runs.

    Args:
        recipe: Its stores' texts train the tokenizer of a tiny LLM.
        args: Say in which precision the run computes.
    """
    section, cuda, half = recipe.model, torch.cuda.is_available() and not args.use_cpu, args.bf16 or args.fp16
    attention, why = choose_attention(section.attention, cuda=cuda, half=half)
    print(f"attention: {attention} ({why})")
    if section.base is not None:
        model, processor = _load(recipe, args)
    else:
        with scale.unsharded():  # put together whole, split when training starts
            model, processor = composed(section, recipe.data.stores)
    model.set_attn_implementation(attention)
    return model, processor


def composed(section: ModelSection, corpora: Sequence[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that `model.compose` describes.

    Args:
        section: A recipe's model section without a base.
        corpora: Stores whose texts train the tokenizer of a tiny LLM.
    """
    assert section.compose is not None
    check_keys(section.compose, [f.name for f in dataclasses.fields(Composition)], "model.compose")
    return compose(Composition(**section.compose), [text for corpus in corpora for text in store_texts(Path(corpus))])


def _load(recipe: Recipe, args: TrainingArguments) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The base of a recipe, quantised if it says so."""
    section = recipe.model
    dtype = choose_dtype(section, lora=recipe.lora is not None, bf16=args.bf16)
    assert section.base is not None
    if section.quantize is None:
        return load_checkpoint(section.base, dtype, section.max_pixels)
    base = base_of(load_processor(section.base)[0], section.base)
    compute = torch.bfloat16 if args.bf16 else dtype
    print(f"quantised: {section.quantize} by bitsandbytes, computes in {str(compute).removeprefix('torch.')}")
    return load_checkpoint(section.base, dtype, section.max_pixels, quantization(section.quantize, base, compute))
