"""Adapters are merged into their own base's stored weights, or refused; nothing is overwritten by a wrong command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BitsAndBytesConfig
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.data_builders.store import Store, write_store
from geotempo.finetune.adapters import CONFIG, WEIGHTS, find_base, fit, merge_adapter, merged, read_adapter, skeleton
from geotempo.finetune.recipe import parse_recipe
from geotempo.finetune.train import train
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.errors import GeoTempoError, InputError, ModelError
from tests.finetune.conftest import samples
from tests.tiny_adapters import rename, write_adapter
from tests.tiny_bases import write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("llava", tmp_path_factory.mktemp("bases") / "llava")


def config_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """Read an adapter's config, and change it."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    if changes:
        (folder / CONFIG).write_text(json.dumps(config | changes))
    return config


@pytest.mark.parametrize("config", [
    {}, {"use_rslora": True}, {"use_dora": True}, {"use_dora": True, "use_rslora": True},
    {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {r"layers\.0\.mlp\.up_proj": 3}}, {"bias": "lora_only"},
    {"modules_to_save": ["multi_modal_projector"]}, {"target_modules": ["q_proj", "linear_1", "lm_head", "embed_tokens"]},
], ids=lambda config: ",".join(config) or "plain")
def test_a_merged_model_computes_what_the_adapter_on_its_base_computes(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    adapted = write_adapter(base, tmp_path / "adapter", **config)
    whole, _ = load_checkpoint(merge_adapter(tmp_path / "adapter", tmp_path / "merged"))
    plain, _ = load_checkpoint(base)
    ids = torch.arange(5, 37)[None]
    with torch.no_grad():
        ours, theirs, untouched = whole(input_ids=ids).logits, adapted(input_ids=ids).logits, plain(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert not torch.allclose(ours, untouched, atol=1e-2)


@pytest.mark.parametrize(("old", "new"), [
    ("base_model.model.model.language_model.", "base_model.model.language_model.model."),  # transformers before 4.52
    ("base_model.model.model.language_model.", "base_model.model.model."),                 # the LLM trained alone
    ("base_model.model.", ""),
    (".layers.0.", "._fsdp_wrapped_module.layers.0._checkpoint_wrapped_module."),
    (".lora_A.weight", ".lora_A.default.weight"),
])
def test_other_names_of_the_same_layers_are_understood(base: Path, tmp_path: Path, old: str, new: str) -> None:
    write_adapter(base, tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "other")
    rename(tmp_path / "other", old, new)
    first, second = (load_checkpoint(merge_adapter(tmp_path / name, tmp_path / f"{name}-merged"))[0].state_dict()
                     for name in ("adapter", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_base_keeps_its_stored_type_and_is_rounded_by_no_more(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model, processor = load_checkpoint(base)
    save_checkpoint(model, processor, tmp_path / "base", dtype)
    adapted = write_adapter(tmp_path / "base", tmp_path / "adapter")
    out = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    stored = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    exact = adapted.merge_and_unload().state_dict()  # in float32
    whole = load_checkpoint(out)[0].state_dict()
    unit = torch.finfo(dtype).eps
    assert all(torch.allclose(whole[name], exact[name], rtol=unit, atol=unit * float(exact[name].abs().max())) for name in exact)


def test_a_checkpoint_of_a_run_is_merged_with_its_pixel_budget_template_card_and_recipe(recipe: dict, tmp_path: Path) -> None:
    recipe["model"] = {"base": str(write("llava_next", tmp_path / "base")), "max_pixels": 64 * 128}
    recipe["lora"] = {"r": 4, "alpha": 8, "projector": True}
    recipe["train"] |= {"max_steps": 2, "save_steps": 2, "learning_rate": 1e-2}
    final = train(parse_recipe(recipe))
    out = merge_adapter(final.parent / "checkpoint-2", tmp_path / "merged")
    first, second = (load_checkpoint(folder) for folder in (final, out))
    assert all(torch.allclose(tensor, second[0].state_dict()[name], atol=1e-6) for name, tensor in first[0].state_dict().items())
    assert second[0].config.image_grid_pinpoints == [[64, 128], [128, 64]]
    assert [list(tile) for tile in second[1].image_processor.image_grid_pinpoints] == [[64, 128], [128, 64]]
    assert first[1].chat_template == second[1].chat_template
    assert (out / "recipe.yaml").read_bytes() == (final.parent / "recipe.yaml").read_bytes()


def test_the_adapter_of_a_quantised_base_goes_into_the_16_bit_weights(recipe: dict, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason='bitsandbytes is not installed: pip install "geotempo[qlora]"')
    base = write("llava", tmp_path / "base")
    model, processor = load_checkpoint(base)
    save_checkpoint(model, processor, base, torch.bfloat16)
    recipe["model"] = {"base": str(base), "quantize": "nf4"}
    recipe["lora"] = {"r": 4, "alpha": 8}
    recipe["train"] |= {"max_steps": 2, "learning_rate": 1e-2}
    final = train(parse_recipe(recipe))
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (base, final))
    fitted = fit(read_adapter(final.parent / "adapter"), model, str(base))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {f"{name}.weight" for name in fitted.layers}
    name = next(iter(fitted.layers))
    update = 2 * fitted.tensors[f"base_model.model.{name}.lora_B.weight"] @ fitted.tensors[f"base_model.model.{name}.lora_A.weight"]
    exact = before[f"{name}.weight"] + update
    assert torch.allclose(after[f"{name}.weight"], exact, rtol=2**-8, atol=2**-8 * float(exact.abs().max()))  # nf4 is off by 10 %


@pytest.mark.parametrize("kind", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}])
def test_a_model_quantised_in_memory_or_on_disk_is_never_merged_into(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes", reason='bitsandbytes is not installed: pip install "geotempo[qlora]"')
    model, _ = load_checkpoint(base, quantization=BitsAndBytesConfig(**kind))
    assert any(type(module).__module__.startswith("bitsandbytes") for module in model.modules() if isinstance(module, nn.Linear))
    with pytest.raises(ModelError, match=r"is quantised \(bitsandbytes\).*geotempo merge ADAPTER --base MODEL"):
        merged(get_peft_model(model, LoraConfig(target_modules=["q_proj"])))
    write_adapter(base, tmp_path / "adapter")
    shutil.copytree(base, tmp_path / "quantised")
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "bitsandbytes", **kind}}
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantised' is quantised \(bitsandbytes\)"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=str(tmp_path / "quantised"))
    assert not (tmp_path / "merged").exists()


def test_the_base_is_found_by_name_from_the_folders_above_or_as_given(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "project" / "runs" / "lora" / "adapter"
    write_adapter(base, adapter)
    assert find_base(read_adapter(adapter)) == str(base)
    shutil.copytree(base, tmp_path / "project" / "runs" / "stage1")
    config_of(adapter, base_model_name_or_path="runs/stage1")
    assert find_base(read_adapter(adapter)) == str(tmp_path / "project" / "runs" / "stage1")
    assert find_base(read_adapter(adapter), str(base)) == str(base)
    for missing, words in (("runs/gone/away", "no such folder: 'runs/gone/away'.*--base"), ("", "does not say which model.*--base")):
        config_of(adapter, base_model_name_or_path=missing)
        with pytest.raises(ModelError, match=words):
            find_base(read_adapter(adapter))


def test_another_models_adapter_is_refused_before_weights_are_read(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text())
    for change, words in (({"intermediate_size": 80}, r"its update of 'model.language_model.layers.0.mlp\S+ is \d+ x \d+, the layer is"),
                          ({"num_hidden_layers": 1}, "14 of its 28 weights have no module there")):
        other = tmp_path / "-".join(change)
        other.mkdir()
        (other / "config.json").write_text(json.dumps(config | {"text_config": config["text_config"] | change}))
        with pytest.raises(ModelError, match=words):
            merge_adapter(tmp_path / "adapter", tmp_path / "merged", base=str(other))


def test_damaged_adapters_are_named(base: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "adapter", tmp_path / name))

    write_adapter(base, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    half, cut, nan, pickled, rank, kind, alora = (broken(name) for name in ("half", "cut", "nan", "pickled", "rank", "kind", "alora"))
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj.lora_B" not in name}, half / WEIGHTS)
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:3000])
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, nan / WEIGHTS)
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    config_of(rank, r=8)
    config_of(kind, peft_type="ADALORA")
    config_of(alora, alora_invocation_tokens=[1, 2])
    for folder, words in ((half, "one half"), (cut, "cannot be read"), (nan, "cannot be merged: NaNs"), (pickled, "is a pickle"),
                          (rank, "has rank 4 in .* says 8"), (kind, "type 'ADALORA'"), (alora, "uses alora_invocation_tokens"),
                          (base, "no adapter in")):
        with pytest.raises(GeoTempoError, match=words):
            merge_adapter(folder, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_a_skeleton_has_shapes_and_no_weights(base: Path) -> None:
    assert all(parameter.is_meta for parameter in skeleton(str(base)).parameters())


def test_a_merge_overwrites_a_checkpoint_only(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "run" / "adapter")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for out in (base, base.parent, tmp_path / "run", tmp_path / "run" / "adapter", tmp_path / "photos"):
        with pytest.raises(InputError, match="name a new folder"):
            merge_adapter(tmp_path / "run" / "adapter", out)
    assert (tmp_path / "photos" / "cat.jpg").exists() and (base / "config.json").exists()
    first = merge_adapter(tmp_path / "run" / "adapter", tmp_path / "merged")
    assert merge_adapter(tmp_path / "run" / "adapter", tmp_path / "merged") == first


def test_one_command_merges_stores_and_adapters_and_tells_them_apart(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "adapter")
    for name, rows in (("a", samples(4)[:4]), ("b", samples(4)[4:])):
        write_store(rows, tmp_path / name)

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["merge", *map(str, words), "--out", str(tmp_path / "out")])

    a, b, adapter = tmp_path / "a", tmp_path / "b", tmp_path / "adapter"
    for words, message in (((a, adapter), f"{adapter} is an adapter and {a} is none"), ((adapter, adapter), "is another; merge one"),
                           ((a, b, "--base", base), "belong to an adapter"), ((adapter, "--max-rejected", "0.1"), "belongs to stores")):
        done = run(*words)
        assert done.exit_code != 0 and message in str(done.exception)
        assert not (tmp_path / "out").exists()
    assert run(a, b).exit_code == 0 and len(Store(tmp_path / "out")) == 8
    shutil.rmtree(tmp_path / "out")
    done = run(adapter)
    assert done.exit_code == 0 and "wrote" in done.output and load_checkpoint(tmp_path / "out")
