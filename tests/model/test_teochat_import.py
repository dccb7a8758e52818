"""What an import reads, merges, writes and refuses. Parity with the original is in test_teochat_parity.py."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geotempo.commands.import_teochat import import_teochat as command
from geotempo.model import weight_files
from geotempo.model.checkpoints import load_checkpoint, save_checkpoint
from geotempo.model.errors import ModelError
from geotempo.model.teochat_import import Imported, ImportPlan, import_teochat, locate
from tests.teochat_layout import Sizes, layer_shapes, write_json, write_merged, write_run, write_vision

pytest.importorskip("sentencepiece", reason='sentencepiece is not installed: pip install "geotempo[teochat]"')

SIZES = Sizes(hidden=32, mlp=48, layers=2, heads=1, vision_hidden=16, vision_mlp=32, vision_layers=2, vision_heads=1,
              patch=56)
TOWER = "model.image_tower.image_tower."


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three folders of the original layout; tests copy what they damage."""
    root = tmp_path_factory.mktemp("layout")
    write_merged(root / "TEOChat-tiny", SIZES, legacy=False)
    write_vision(root / "LanguageBind_Image", SIZES)
    write_run(root / "run-lora", "some/where/TEOChat-tiny", SIZES)
    return root


@pytest.fixture
def own(layout: Path, tmp_path: Path) -> Path:
    """A copy of the folders that a test may damage."""
    return Path(shutil.copytree(layout, tmp_path / "layout"))


def merged(root: Path, **changes: Any) -> Imported:
    plan = {"source": root / "TEOChat-tiny", "out": root / "out", "vision": root / "LanguageBind_Image"} | changes
    return import_teochat(ImportPlan(**plan))


def adapted(root: Path, **changes: Any) -> Imported:
    return merged(root, **({"source": root / "run-lora", "base": root / "TEOChat-tiny"} | changes))


def original(folder: Path) -> dict[str, torch.Tensor]:
    states = [torch.load(file, weights_only=True) for file in sorted(folder.glob("*.bin"))]
    return {name: tensor for state in states for name, tensor in state.items()}


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def edit_json(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    write_json(path, {key: value for key, value in (found | changes).items() if value != "REMOVE"})


def edit_weights(file: Path, *drop: str, **more: torch.Tensor) -> None:
    state = torch.load(file, weights_only=True)
    for name in drop:
        del state[name]
    torch.save(state | more, file)


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "ending"), [(1, "bin"), (3, "bin"), (1, "safetensors"), (2, "safetensors")])
def test_every_layout_of_files_gives_the_same_bytes(shards: int, ending: str, layout: Path, tmp_path: Path) -> None:
    merged(layout, out=tmp_path / "expected")
    source = write_merged(tmp_path / "source", SIZES, shards=shards, ending=ending, legacy=False)
    merged(layout, source=source, out=tmp_path / "out")
    found, expected = (written(tmp_path / name) for name in ("out", "expected"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in ("config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_names_are_vllms_and_values_the_originals(layout: Path, tmp_path: Path) -> None:
    done = merged(layout, out=tmp_path / "out", vision=layout / "LanguageBind_Image" / "config.json")
    found, given = written(tmp_path / "out"), original(layout / "TEOChat-tiny")
    assert torch.equal(found["language_model.model.layers.1.mlp.up_proj.weight"], given["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(found["language_model.lm_head.weight"], given["lm_head.weight"])
    assert torch.equal(found["multi_modal_projector.linear_2.bias"], given["model.mm_projector.2.bias"])
    assert torch.equal(found["vision_tower.vision_model.pre_layrnorm.weight"], given[TOWER + "pre_layrnorm.weight"])
    assert done.dropped == [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    assert done.parameters == sum(tensor.numel() for tensor in found.values())


def test_weights_given_as_vision_win_over_the_rounded_copy(layout: Path, tmp_path: Path) -> None:
    done = merged(layout, out=tmp_path / "out")
    tower = torch.load(layout / "LanguageBind_Image" / "pytorch_model.bin", weights_only=True)
    found, name = written(tmp_path / "out"), "embeddings.patch_embedding.weight"
    assert torch.equal(found[f"vision_tower.vision_model.{name}"], tower[f"vision_model.{name}"])
    assert not torch.equal(tower[f"vision_model.{name}"], original(layout / "TEOChat-tiny")[TOWER + name])
    assert "LanguageBind_Image" in done.tower_from


def test_config_is_taken_from_the_given_ones(layout: Path, tmp_path: Path) -> None:
    merged(layout, out=tmp_path / "out")
    model, processor = load_checkpoint(tmp_path / "out")
    config = model.config
    assert (config.geotempo_mode, config.image_token_id, config.image_seq_length) == ("teochat", 3, 16)
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert (config.vision_config.hidden_act, config.text_config.vocab_size) == ("gelu", SIZES.vocab)
    assert (processor.patch_size, processor.image_token_id) == (56, 3)
    assert model.generation_config.do_sample is False


def test_saved_again_it_stays_a_teochat_model(layout: Path, tmp_path: Path) -> None:
    """As after tuning."""
    merged(layout, out=tmp_path / "out")
    model, processor = load_checkpoint(tmp_path / "out")
    save_checkpoint(model, processor, tmp_path / "again")
    found, expected = written(tmp_path / "again"), written(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert load_checkpoint(tmp_path / "again")[0].config.geotempo_mode == "teochat"


@pytest.mark.parametrize(("dtype", "expected"),
                         [(None, torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_dtype(dtype: str | None, expected: torch.dtype, layout: Path, tmp_path: Path) -> None:
    done = merged(layout, out=tmp_path / "out", dtype=dtype)
    assert {tensor.dtype for tensor in written(tmp_path / "out").values()} == {expected}
    assert f"torch.{done.dtype}" == str(expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == done.dtype


def test_the_stored_dtype_is_kept(own: Path) -> None:
    for file in (own / "TEOChat-tiny").glob("*.bin"):
        torch.save({name: tensor.half() for name, tensor in torch.load(file, weights_only=True).items()}, file)
    assert merged(own).dtype == "float16"


def test_shards_of_bounded_size(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(layout, out=tmp_path / "one")
    monkeypatch.setattr("geotempo.model.weight_files._MOST", 40_000)
    merged(layout, out=tmp_path / "many")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = [tmp_path / "many" / name for name in sorted(set(index["weight_map"].values()))]
    assert len(files) > 2
    assert all(file.stat().st_size < 40_000 + 4_000 or len(load_file(file)) == 1 for file in files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in written(tmp_path / "one").values())
    one, many = load_checkpoint(tmp_path / "one")[0].state_dict(), load_checkpoint(tmp_path / "many")[0].state_dict()
    assert all(torch.equal(one[name], many[name]) for name in one)


# --- LoRA runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "scale"), [
    ({}, 2.0), ({"lora_alpha": 12}, 3.0), ({"lora_alpha": 12, "use_rslora": True}, 6.0),
])
@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_an_adapter_is_merged_in_float32(settings: dict[str, Any], scale: float, ending: str, layout: Path,
                                         tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "TEOChat-tiny", SIZES, ending=ending, **settings)
    adapted(layout, source=run, out=tmp_path / "out")
    file = run / f"adapter_model.{ending}"
    adapter = torch.load(file, weights_only=True) if ending == "bin" else load_file(file)
    found, base = written(tmp_path / "out"), original(layout / "TEOChat-tiny")
    for layer in range(2):
        for name in layer_shapes(SIZES, layer):
            up, down = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "BA")
            merged_ = found["language_model." + name + ".weight"]
            torch.testing.assert_close(merged_, base[f"{name}.weight"] + scale * (up @ down), rtol=0, atol=1e-5)
            assert (merged_ - base[f"{name}.weight"]).abs().max() > 0.1
    assert torch.equal(found["language_model.lm_head.weight"], base["lm_head.weight"])


def test_the_projector_is_the_runs_and_not_the_bases(layout: Path, tmp_path: Path) -> None:
    adapted(layout, out=tmp_path / "out")
    rest = torch.load(layout / "run-lora" / "non_lora_trainables.bin", weights_only=True)
    found = written(tmp_path / "out")
    assert torch.equal(found["multi_modal_projector.linear_1.weight"], rest["base_model.model.model.mm_projector.0.weight"])
    assert not torch.equal(rest["base_model.model.model.mm_projector.0.weight"],
                           original(layout / "TEOChat-tiny")["model.mm_projector.0.weight"])


def test_merging_equals_peft(layout: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason='peft is not installed: pip install "geotempo[train]"')
    from transformers import LlamaConfig, LlamaForCausalLM

    adapted(layout, out=tmp_path / "out")
    base = original(layout / "TEOChat-tiny")
    given = json.loads((layout / "run-lora" / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    llm = LlamaForCausalLM(LlamaConfig(**{key: given[key] for key in sizes}))
    other = ("mm_projector", "image_tower", "inv_freq")
    llm.load_state_dict({name: tensor for name, tensor in base.items() if not any(part in name for part in other)})
    theirs = peft.PeftModel.from_pretrained(llm, layout / "run-lora").merge_and_unload().state_dict()
    found = written(tmp_path / "out")
    for name, tensor in theirs.items():
        torch.testing.assert_close(found["language_model." + name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("settings", "message"), [
    ({"use_dora": True}, "use_dora = True; only plain LoRA"),
    ({"bias": "all"}, "bias = 'all'"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ({"base_model_name_or_path": "LanguageBind/Video-LLaVA-7B"}, "was trained on 'Video-LLaVA-7B', --base is 'TEOChat-tiny'"),
    ({"r": 8}, "was trained for another base: 14 of its 14 layers"),
    ({"r": "REMOVE"}, "is not the config of a LoRA adapter"),
])
def test_an_adapter_that_cannot_be_merged(settings: dict[str, Any], message: str, own: Path) -> None:
    edit_json(own / "run-lora" / "adapter_config.json", **settings)
    with pytest.raises(ModelError, match=message):
        adapted(own)


def test_a_renamed_base_is_taken_on_request(own: Path) -> None:
    edit_json(own / "run-lora" / "adapter_config.json", base_model_name_or_path="LanguageBind/Video-LLaVA-7B")
    assert adapted(own, other_base_name=True).dtype == "float32"


def test_an_adapter_of_another_size(own: Path) -> None:
    shutil.rmtree(own / "run-lora")
    write_run(own / "run-lora", "TEOChat-tiny", Sizes(hidden=64, mlp=48, layers=3, heads=2))
    with pytest.raises(ModelError, match=r"another base: 21 of its 21 layers .*model\.layers\.0\.self_attn\.q_proj\.weight"):
        adapted(own)


def test_a_lora_run_needs_its_base_and_only_it(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a LoRA run; give the model .* with --base"):
        merged(layout, source=layout / "run-lora", out=tmp_path / "out")
    with pytest.raises(ModelError, match=r"no LoRA run .* --base does not apply"):
        merged(layout, base=layout / "TEOChat-tiny", out=tmp_path / "out")


@pytest.mark.parametrize(("file", "message"), [
    ("non_lora_trainables.bin", "the projector"), ("adapter_model.bin", "adapter_model.bin or"),
])
def test_an_incomplete_run(file: str, message: str, own: Path) -> None:
    (own / "run-lora" / file).unlink()
    with pytest.raises(ModelError, match=f"lacks .*{message}"):
        adapted(own)


def test_unknown_tensors_in_a_run(own: Path) -> None:
    edit_weights(own / "run-lora" / "adapter_model.bin", **{"base_model.model.model.embed_tokens.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"unexpected tensor base_model\.model\.model\.embed_tokens\.weight"):
        adapted(own)
    shutil.copy(own / "run-lora" / "non_lora_trainables.bin", own / "copy.bin")
    edit_weights(own / "run-lora" / "non_lora_trainables.bin", "base_model.model.model.mm_projector.2.bias")
    edit_weights(own / "run-lora" / "adapter_model.bin", "base_model.model.model.embed_tokens.weight")
    with pytest.raises(ModelError, match="3 of the projector's 4 tensors"):
        adapted(own)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_missing_and_unexpected_tensors_are_named(own: Path) -> None:
    first, second = sorted((own / "TEOChat-tiny").glob("*.bin"))
    edit_weights(first, "model.embed_tokens.weight", "lm_head.weight",
                 **{"model.layers.9.mlp.up_proj.weight": torch.zeros(2)})
    edit_weights(second, **{"model.mm_projector.4.weight": torch.zeros(2)})
    with pytest.raises(ModelError) as caught:
        merged(own)
    assert "2 tensors missing: lm_head.weight, model.embed_tokens.weight" in str(caught.value)
    assert "2 tensors unexpected: model.layers.9.mlp.up_proj.weight, model.mm_projector.4.weight" in str(caught.value)
    assert not (own / "out").exists()


def test_other_shapes_are_named(own: Path) -> None:
    edit_json(own / "TEOChat-tiny" / "config.json", intermediate_size=64)
    named = r"model\.layers\.0\.mlp\.down_proj\.weight is \(32, 48\), not \(32, 64\)"
    with pytest.raises(ModelError, match=f"6 tensors of another shape: {named}"):
        merged(own)


def test_a_missing_shard_is_named(own: Path) -> None:
    shard = sorted((own / "TEOChat-tiny").glob("*.bin"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"lacks the shard {shard.name} that pytorch_model\.bin\.index\.json names \(1 of 2"):
        merged(own)
    (own / "TEOChat-tiny" / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ModelError, match=f"lacks the shard {shard.name}"):
        merged(own)


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_truncated_shard(part: float, own: Path) -> None:
    shard = sorted((own / "TEOChat-tiny").glob("*.bin"))[1]
    shard.write_bytes(shard.read_bytes()[: int(part * shard.stat().st_size)])
    with pytest.raises(ModelError, match=f"cannot read the weights in .*{shard.name}"):
        merged(own)
    tensors = write_merged(own / "safe", SIZES, ending="safetensors", shards=1) / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[: int(part * tensors.stat().st_size)])
    with pytest.raises(ModelError, match=r"cannot read the weights in .*model\.safetensors"):
        merged(own, source=own / "safe")


def test_a_pickle_that_runs_code_is_not_run(own: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (own / "touched",)

    torch.save({"model.norm.weight": Evil()}, min((own / "TEOChat-tiny").glob("*.bin")))
    with pytest.raises(ModelError, match="cannot read the weights"):
        merged(own)
    assert not (own / "touched").exists()


def test_an_index_that_leads_out_of_the_folder(own: Path) -> None:
    write_json(own / "TEOChat-tiny" / "pytorch_model.bin.index.json",
               {"weight_map": {"a": "../LanguageBind_Image/pytorch_model.bin"}})
    with pytest.raises(ModelError, match="names files outside its folder"):
        merged(own)


def test_quantised_weights(own: Path) -> None:
    edit_weights(min((own / "TEOChat-tiny").glob("*.bin")),
                 **{"model.layers.0.self_attn.q_proj.weight": torch.zeros(32, 32, dtype=torch.int8)})
    with pytest.raises(ModelError, match=r"q_proj\.weight in .* is stored as torch\.int8: the checkpoint is quantised"):
        merged(own)


def test_values_that_float16_cannot_hold(own: Path) -> None:
    edit_weights(min((own / "TEOChat-tiny").glob("*.bin")), **{"model.norm.weight": torch.full((32,), 1e5)})
    with pytest.raises(ModelError, match=r"norm\.weight has values up to 1e\+05, which float16 cannot hold"):
        merged(own, dtype="float16")
    assert not (own / "out").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "llava_mpt"}, "is a 'llava_mpt' model; an original TEOChat"),
    ({"model_type": "clip", "mm_projector_type": "REMOVE"}, "is a 'clip' model"),
    ({"text_config": {}}, "in the layout of transformers already"),
    ({"mm_projector_type": "linear"}, "the projector of .* is 'linear'"),
    ({"mm_use_im_start_end": True}, "extra image tokens"),
    ({"hidden_act": "REMOVE", "vocab_size": "REMOVE"}, "lacks vocab_size, hidden_act"),
    ({"vocab_size": 500}, "has 480 pieces, config.json says 500"),
])
def test_another_architecture(changes: dict[str, Any], message: str, own: Path) -> None:
    edit_json(own / "TEOChat-tiny" / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        merged(own)


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_act": "REMOVE"}, "lacks hidden_act; they are not assumed"),
    ({"add_time_attn": True}, "add_time_attn: it is a video tower"),
    ({"patch_size": 28}, "tensors of another shape"),
    ({"num_hidden_layers": 3}, r"16 tensors missing: model\.image_tower\.image_tower\.encoder\.layers\.2"),
])
def test_vision_config(changes: dict[str, Any], message: str, own: Path) -> None:
    found = json.loads((own / "LanguageBind_Image" / "config.json").read_text())
    write_json(own / "LanguageBind_Image" / "config.json", found)
    vision = {key: value for key, value in (found["vision_config"] | changes).items() if value != "REMOVE"}
    edit_json(own / "LanguageBind_Image" / "config.json", vision_config=vision)
    with pytest.raises(ModelError, match=message):
        merged(own)


def test_no_vision_config_at_all(layout: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no vision_config; give LanguageBind_Image's"):
        merged(layout, vision=None, out=tmp_path / "out")


def test_no_tower_at_all(own: Path) -> None:
    for file in (own / "TEOChat-tiny").glob("*.bin"):
        torch.save({name: tensor for name, tensor in torch.load(file, weights_only=True).items() if TOWER not in name}, file)
    with pytest.raises(ModelError, match="has no image tower"):
        merged(own, vision=own / "LanguageBind_Image" / "config.json")
    assert merged(own).dtype == "float32"


def test_a_tower_with_an_unmerged_lora_or_attention_over_time(own: Path) -> None:
    weights = own / "LanguageBind_Image" / "pytorch_model.bin"
    lora = "vision_model.encoder.base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    edit_weights(weights, **{lora: torch.zeros(2, 16)})
    with pytest.raises(ModelError, match=r"unmerged LoRA .*base_model\.model\.layers\.0"):
        merged(own)
    shutil.copy(write_vision(own / "again", SIZES) / "pytorch_model.bin", weights)
    edit_weights(weights, **{"vision_model.encoder.layers.0.temporal_embedding": torch.zeros(1, 1, 16)})
    with pytest.raises(ModelError, match=r"1 tensors unexpected: vision_model\.encoder\.layers\.0\.temporal_embedding"):
        merged(own)


def test_vision_weights_of_something_else(own: Path) -> None:
    save_file({"model.layers.0.weight": torch.zeros(2)}, own / "LanguageBind_Image" / "model.safetensors")
    with pytest.raises(ModelError, match=r"not those of LanguageBind_Image: 1 tensors unexpected: model\.layers\.0\.weight"):
        merged(own)


def test_no_tokenizer_and_no_weights(own: Path) -> None:
    (own / "TEOChat-tiny" / "tokenizer.model").rename(own / "elsewhere.model")
    with pytest.raises(ModelError, match=r"have no tokenizer\.model"):
        merged(own)
    (own / "elsewhere.model").rename(own / "TEOChat-tiny" / "tokenizer.model")
    for file in (own / "TEOChat-tiny").glob("pytorch_model*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no weights; expected pytorch_model"):
        merged(own)


@pytest.mark.parametrize(("changes", "message"), [
    ({"dtype": "int8"}, "unknown dtype 'int8'"), ({"image_processor": "other"}, "unknown image processor"),
])
def test_unknown_options(changes: dict[str, str], message: str, layout: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        merged(layout, out=tmp_path / "out", **changes)


# --- the folder that is written -------------------------------------------------------------------------------------


def test_what_is_read_is_not_replaced(layout: Path) -> None:
    for out in (layout / "TEOChat-tiny", layout / "LanguageBind_Image", layout):
        with pytest.raises(ModelError, match="would replace"):
            merged(layout, out=out)


def test_only_a_checkpoint_is_replaced(own: Path) -> None:
    (own / "out").mkdir()
    (own / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists and is not a checkpoint"):
        merged(own)
    assert (own / "out" / "thesis.txt").read_text() == "mine"
    (own / "out" / "thesis.txt").unlink()
    merged(own)
    (own / "out" / "stale.txt").write_text("of the older import")
    merged(own, dtype="float16")
    assert not (own / "out" / "stale.txt").exists()
    assert written(own / "out")["language_model.lm_head.weight"].dtype == torch.float16


def test_a_killed_import_leaves_the_older_one(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(own)
    before = {file.name: file.read_bytes() for file in (own / "out").iterdir()}
    stored, calls = weight_files._stored, itertools.count(1)

    def killed_at_20(*given: Any) -> torch.Tensor:
        if next(calls) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return stored(*given)

    monkeypatch.setattr(weight_files, "_stored", killed_at_20)
    child = multiprocessing.get_context("fork").Process(target=merged, args=(own,), kwargs={"dtype": "bfloat16"})
    child.start()
    child.join(60)
    monkeypatch.undo()
    assert child.exitcode == -signal.SIGKILL
    assert {file.name: file.read_bytes() for file in (own / "out").iterdir()} == before
    assert merged(own, dtype="bfloat16").dtype == "bfloat16"
    assert sorted(path.name for path in own.iterdir()) == ["LanguageBind_Image", "TEOChat-tiny", "out", "run-lora"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_took(layout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(str(layout / "run-lora"), tmp_path / "out", vision=str(layout / "LanguageBind_Image"),
            base=str(layout / "TEOChat-tiny"))
    out = capsys.readouterr().out
    assert "0.2 M parameters in float32, 16 tokens per image" in out
    assert f"image tower from {layout / 'LanguageBind_Image'}" in out
    assert "3 tensors left out by design" in out
    assert "transformers and vLLM need geotempo installed" in out


def test_a_name_that_is_neither_folder_nor_on_the_hub() -> None:
    with pytest.raises(ModelError, match="no such folder: 'no/such/name'"):
        locate("no/such/name")
