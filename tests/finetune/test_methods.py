"""What is trained is what the recipe says; how it runs is chosen by what there is."""

import shutil
from pathlib import Path

import pytest
import torch

from geotempo.finetune import methods
from geotempo.finetune.recipe import LoraSection, ModelSection, parse_recipe
from geotempo.finetune.train import train, training_arguments
from geotempo.model.bases import BASES, module_of
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.errors import ConfigError, ModelError
from tests.finetune.test_bases import FAMILIES
from tests.finetune.test_train import history, losses
from tests.tiny_bases import write


@pytest.mark.parametrize(("there", "cuda", "half", "name", "why"), [
    (True, True, True, "flash_attention_2", "flash-attn is installed"),
    (False, True, True, "sdpa", "flash-attn needs the package flash-attn"),
    (True, False, True, "sdpa", "flash-attn needs a GPU"),
    (True, True, False, "sdpa", "flash-attn needs train.bf16 or train.fp16"),
])
def test_attention_is_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch, there: bool, cuda: bool, half: bool, name: str, why: str) -> None:
    monkeypatch.setattr(methods, "installed", lambda package: there)
    assert methods.choose_attention("auto", cuda=cuda, half=half) == (name, why)
    assert methods.choose_attention("eager", cuda=cuda, half=half)[0] == "eager"
    if name == "sdpa":
        with pytest.raises(ConfigError, match=f"flash_attention_2 needs {why.removeprefix('flash-attn needs ')}; auto or sdpa"):
            methods.choose_attention("flash_attention_2", cuda=cuda, half=half)


def test_the_attention_of_a_run_is_printed_and_used(recipe: dict, capsys: pytest.CaptureFixture) -> None:
    seen = {}
    for name in ("sdpa", "eager"):
        recipe["model"]["attention"] = name
        recipe["train"] |= {"max_steps": 2, "output_dir": recipe["train"]["output_dir"] + name}
        seen[name] = losses(train(parse_recipe(recipe)).parent)
        assert f"attention: {name} (the recipe says so)" in capsys.readouterr().out
    assert seen["sdpa"] == pytest.approx(seen["eager"], abs=1e-5)


def test_frozen_weights_are_small_and_learning_ones_are_not(base: Path) -> None:
    assert methods.choose_dtype(ModelSection("x"), lora=True, bf16=True) is torch.bfloat16
    assert methods.choose_dtype(ModelSection("x"), lora=False, bf16=True) is torch.float32
    assert methods.choose_dtype(ModelSection("x", dtype="float16"), lora=False, bf16=False) is torch.float16
    model, _ = load_checkpoint(base, torch.bfloat16)
    wrapped = methods.add_lora(model, LoraSection(r=4, projector=True), blocks=1)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in wrapped.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_vision_blocks_are_those_that_the_llm_sees(family: str, tmp_path: Path) -> None:
    model, processor = load_checkpoint(write(family, tmp_path / "base"))
    (name,) = methods.vision_blocks(model, 1)
    methods.freeze(model, ModelSection("x", freeze=("projector", "language_model"), vision_blocks=1))
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left
    assert all(parameter.startswith(f"{name}.") for parameter in left)
    from PIL import Image
    picture = Image.new("RGB", (64, 64), (90, 120, 30))
    inputs = processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": picture},
                                                                         {"type": "text", "text": "what changed?"}]}],
                                           tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    model(**inputs).logits.square().sum().backward()
    got = dict(model.named_parameters())
    assert all(got[parameter].grad is not None and got[parameter].grad.abs().sum() > 0 for parameter in left
               if "k_proj.bias" not in parameter)  # softmax takes a shift of all keys away
    # where the last but one layer's features are taken, the block behind it is not counted
    assert name.endswith(".0" if family == "llava_next" else ".1")
    with pytest.raises(ConfigError, match=r"model.vision_blocks is 9, the vision encoder has [12] blocks that the LLM sees"):
        methods.vision_blocks(model, 9)


def test_vision_blocks_learn_beside_adapters_at_their_own_rate(recipe: dict, base: Path) -> None:
    recipe["model"] = {"base": str(base), "vision_blocks": 1, "learning_rates": {"vision_tower": 1e-4}}
    recipe["lora"] = {"r": 4, "alpha": 8, "projector": True}
    recipe["train"]["max_steps"] = 1
    tuned = train(parse_recipe(recipe))
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (base, tuned))
    changed = {name: (before[name] - after[name]).abs().max().item() for name in before if not torch.equal(before[name], after[name])}
    parts = {module_of(name) for name in changed}
    assert parts == {"vision_tower", "projector", "language_model"}
    blocks = {name: by for name, by in changed.items() if module_of(name) == "vision_tower"}
    assert all(".layers.1." in name for name in blocks)
    assert max(blocks.values()) == pytest.approx(1e-4, rel=0.01)  # Adam's first step is the rate
    assert not (tuned.parent / "adapter").exists()  # no engine would serve the blocks from it


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_learn_beside_adapters_and_stay_tied(recipe: dict, base: Path, tmp_path: Path, tied: bool) -> None:
    model, processor = load_checkpoint(base)
    if not tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    save_checkpoint(model, processor, tmp_path / "start")
    recipe["model"] = {"base": str(tmp_path / "start")}
    recipe["lora"] = {"r": 4, "embeddings": True}
    recipe["train"] |= {"max_steps": 4, "save_steps": 2, "output_dir": str(tmp_path / "run")}
    final = train(parse_recipe(recipe))
    after, _ = load_checkpoint(final)
    for part in ("get_input_embeddings", "get_output_embeddings"):
        assert not torch.equal(getattr(after, part)().weight, getattr(model, part)().weight)
    assert (after.get_output_embeddings().weight is after.get_input_embeddings().weight) == tied
    assert not (final.parent / "adapter").exists()  # vLLM would leave the embeddings out
    whole = losses(final.parent)
    (final.parent / "checkpoint-4").rename(tmp_path / "gone")
    shutil.rmtree(final)
    resumed = load_checkpoint(train(parse_recipe(recipe)))[0]
    assert losses(final.parent) == pytest.approx(whole, abs=1e-5)
    assert torch.allclose(resumed.get_input_embeddings().weight, after.get_input_embeddings().weight, atol=1e-5)


def test_adapters_scale_as_the_recipe_says(base: Path) -> None:
    def adapter(**given: object):
        wrapped = methods.add_lora(load_checkpoint(base)[0], LoraSection(r=16, alpha=32, **given))
        return next(module for name, module in wrapped.named_modules() if name.endswith("language_model.layers.0.self_attn.q_proj"))

    assert adapter().scaling["default"] == 2
    assert adapter(rslora=True).scaling["default"] == 8
    assert adapter(dora=True).use_dora["default"]
    with pytest.raises(ModelError, match=r"lora.targets \['nowhere'\] do not fit LLaVA-1.5"):
        adapter(targets=("nowhere",))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_only_the_llm_is_quantised_and_the_merge_goes_into_the_base_itself(recipe: dict, base: Path, kind: str) -> None:
    model, _ = load_checkpoint(base, quantization=methods.quantization(kind, BASES["llava"], torch.float32))
    small = {name for name, module in model.named_modules() if type(module).__name__ in ("Linear4bit", "Linear8bitLt")}
    assert len(small) == 2 * 7
    assert all(module_of(name) == "language_model" for name in small)
    recipe["model"] = {"base": str(base), "quantize": kind}
    recipe["lora"] = {"r": 4, "alpha": 8}
    recipe["train"]["max_steps"] = 2
    tuned = train(parse_recipe(recipe))
    assert len(set(losses(tuned.parent).values())) == 2
    assert (tuned / "recipe.yaml").read_bytes() == (tuned.parent / "recipe.yaml").read_bytes()
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (base, tuned))
    for name, value in before.items():
        if name.endswith("_proj.weight") and module_of(name) == "language_model":
            # of rank 4: quantisation errors would be of full rank
            assert torch.linalg.matrix_rank(after[name] - value, rtol=1e-3) <= 4
            assert not torch.equal(after[name], value)
        else:
            assert torch.equal(after[name], value)


def test_quantised_weights_need_adapters_and_a_base(recipe: dict, base: Path) -> None:
    recipe["model"] = {"base": str(base), "quantize": "nf4"}
    with pytest.raises(ConfigError, match="quantize freezes the quantised weights, so a section lora is needed"):
        parse_recipe(recipe)
    with pytest.raises(ConfigError, match=r"model\.quantize is 'nf3'; allowed: None, nf4, int8"):
        parse_recipe(recipe | {"model": {"base": str(base), "quantize": "nf3"}, "lora": {}})


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(recipe: dict, base: Path, tmp_path: Path, lora: bool) -> None:
    recipe["model"] = {"base": str(base)}
    if lora:
        recipe["lora"] = {"r": 4, "alpha": 8, "dropout": 0.0}
    seen = []
    for checkpointing in (False, True):
        recipe["train"] |= {"max_steps": 2, "gradient_checkpointing": checkpointing, "output_dir": str(tmp_path / str(checkpointing))}
        seen.append([(entry["loss"], entry["grad_norm"]) for entry in history(train(parse_recipe(recipe)).parent) if "loss" in entry])
    assert len(seen[0]) == 2
    assert seen[0] == [pytest.approx(pair, abs=1e-5) for pair in seen[1]]
    assert seen[0][0][1] > 0


def test_fused_kernels_are_the_default_where_they_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "installed", lambda package: package == "liger_kernel")
    assert methods.liger_default(cuda=True)
    assert not methods.liger_default(cuda=False)
    assert not training_arguments({"output_dir": "x"}).use_liger_kernel or torch.cuda.is_available()
