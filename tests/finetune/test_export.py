"""What vLLM would silently get wrong is mended or refused; every refusal is tried with an adapter that really has the fault.

That vLLM serves what comes out, and gets wrong what is refused, is shown on a real one in `tests/vllm/test_adapters_vllm.py`.
"""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers.utils import is_torchvision_available
from typer.testing import CliRunner

from geotempo.cli import app
from geotempo.finetune.adapters import CONFIG, WEIGHTS, read_adapter
from geotempo.finetune.export import RANKS, Exported, Serving, export_vllm
from geotempo.model.checkpoints import load_checkpoint, load_processor, save_checkpoint
from geotempo.model.errors import ConfigError, InputError
from tests.tiny_adapters import rename, write_adapter
from tests.tiny_bases import BUILDERS, write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("llava", tmp_path_factory.mktemp("bases") / "llava")


def trained(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter as a run leaves it: its processor beside it."""
    write_adapter(base, folder, **config)
    load_processor(base)[1].save_pretrained(folder)
    return folder


def logits(base: Path, adapter: Path) -> torch.Tensor:
    """Of transformers with PEFT."""
    model = PeftModel.from_pretrained(load_checkpoint(base)[0], adapter).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 37)[None]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("config", "words"), [
    ({"use_dora": True}, "it is DoRA, which vLLM does not compute"),
    ({"bias": "lora_only"}, "it trains biases"),
    ({"lora_bias": True}, "it trains biases"),
    ({"modules_to_save": ["multi_modal_projector"]}, "it holds whole weights of the projector, which vLLM takes from the base"),
    ({"modules_to_save": ["vision_tower.encoder.layers.1"]}, "it holds whole weights of the vision tower"),
    ({"target_modules": r".*(language_model.*q_proj|linear_1)"}, "it has layers in the projector, which vLLM ignores without an error"),
    ({"target_modules": ["q_proj", "fc1"]}, "it has layers in the vision tower, which vLLM ignores"),
    ({"target_modules": r".*(lm_head|q_proj)"}, "it has layers on lm_head"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "whole weights of the language model.*layers on embed_tokens"),
    ({"r": 600}, "its rank is 600, vLLM's highest is 512"),
    ({"rank_pattern": {"q_proj": 520}}, "its rank is 520"),
    ({"init_lora_weights": "pissa"}, "its init 'pissa' changes the base's weights"),
])
def test_what_vllm_cannot_compute_is_refused_with_the_way_out(base: Path, tmp_path: Path, config: dict[str, Any], words: str) -> None:
    adapter = trained(base, tmp_path / "adapter", **config)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=rf"vLLM cannot serve the adapter .*{words}.*geotempo merge {adapter} --out DIR"):
        export_vllm([adapter])
    assert sorted(tmp_path.iterdir()) == before


def test_all_faults_are_named_at_once(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, tmp_path / "adapter", use_dora=True, target_modules=["q_proj", "linear_1"])
    with pytest.raises(InputError, match="layers in the projector") as caught:
        export_vllm([adapter])
    assert "it is DoRA" in str(caught.value)


def test_what_only_peft_knows_is_refused_without_a_detour_over_merge(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, tmp_path / "adapter")
    config = json.loads((adapter / CONFIG).read_text()) | {"alora_invocation_tokens": [5, 6]}
    (adapter / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"uses alora_invocation_tokens.*serve it with PEFT"):
        export_vllm([adapter])


@pytest.mark.skipif(not is_torchvision_available(), reason="this base's processor needs torchvision (the vLLM environment has it)")
def test_a_family_without_lora_in_vllm_is_refused(tmp_path: Path) -> None:
    onevision = write("llava_onevision", tmp_path / "base")
    with pytest.raises(InputError, match="vLLM has no LoRA for LLaVA-OneVision"):
        export_vllm([trained(onevision, tmp_path / "adapter")])


def test_a_base_under_names_that_vllm_does_not_find_is_refused(tmp_path: Path) -> None:
    model, processor = BUILDERS["llava"]()
    model.save_pretrained(tmp_path / "base")  # transformers' own names
    processor.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"saved under names that vLLM does not find \(.*vision_tower\.embeddings"):
        export_vllm([trained(tmp_path / "base", tmp_path / "adapter")])


def test_a_tokenizer_with_more_tokens_than_the_bases_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, tmp_path / "adapter")
    processor = load_processor(base)[1]
    processor.tokenizer.add_tokens(["[SEG]"])
    processor.save_pretrained(adapter)
    with pytest.raises(InputError, match=r"was trained with 388 tokens, its base .* has 387"):
        export_vllm([adapter])


def test_what_vllm_reads_as_it_is_stays_where_it_is(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, tmp_path / "floods" / "adapter", r=12)
    content = {file.name: file.read_bytes() for file in adapter.iterdir()}
    serving = export_vllm([adapter])
    (one,) = serving.adapters
    assert (one.name, one.folder, one.mended, serving.max_rank) == ("floods", adapter, (), 16)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == content
    copy = export_vllm([adapter], tmp_path / "served").adapters[0].folder
    assert copy == tmp_path / "served" / "floods"
    assert all(torch.equal(tensor, load_file(copy / WEIGHTS)[name]) for name, tensor in load_file(adapter / WEIGHTS).items())


@pytest.mark.parametrize(("old", "new"), [
    ("base_model.model.model.language_model.", "base_model.model.language_model.model."),
    ("base_model.model.model.language_model.", "base_model.model.model."),
    ("base_model.model.", "base_model.model.base_model.model."),
    (".lora_B.weight", ".lora_B.default.weight"),
])
def test_names_that_vllm_would_drop_are_mended(base: Path, tmp_path: Path, old: str, new: str) -> None:
    adapter = trained(base, tmp_path / "adapter")
    wanted = logits(base, adapter)
    rename(adapter, old, new)
    (one,) = export_vllm([adapter], names=["floods"]).adapters
    assert one.folder == tmp_path / "adapter-vllm" and "weights were renamed" in one.mended[0]
    assert all(name.startswith("base_model.model.model.language_model.layers.") and name.count("lora") == 1 and "default" not in name
               for name in load_file(one.folder / WEIGHTS))
    assert torch.equal(logits(base, one.folder), wanted)


@pytest.mark.parametrize("config", [
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 8, "layers.1.mlp.up_proj": 2}},
    {"alpha_pattern": {"down_proj": 3}},
    {"use_rslora": True, "rank_pattern": {"v_proj": 16}, "alpha_pattern": {r"layers\.0\..*": 20}},
], ids=lambda config: ",".join(config))
def test_scales_are_written_in_the_plainest_words_and_mean_the_same(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    adapter = trained(base, tmp_path / "adapter", **config)
    serving = export_vllm([adapter])
    read = read_adapter(serving.adapters[0].folder)
    assert not any(read.config[name] for name in ("use_rslora", "rank_pattern", "alpha_pattern"))
    ranks = {tensor.shape[0] for name, tensor in read.tensors.items() if "lora_A" in name}
    assert ranks == {read.config["r"]} and serving.adapters[0].rank == max(4, *config.get("rank_pattern", {"": 4}).values())
    wanted = logits(base, adapter)
    assert torch.allclose(logits(base, serving.adapters[0].folder), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_the_room_for_ranks_is_one_that_vllm_allows(base: Path, tmp_path: Path) -> None:
    serving = export_vllm([trained(base, tmp_path / "adapter", r=9, target_modules=["q_proj"], layers_to_transform=[0],
                                   exclude_modules=r".*vision_tower.*")], names=["floods"])
    assert serving.max_rank == 16 and "--max-lora-rank 16 " in serving.command()
    for rank, room in ((1, 8), (8, 8), (64, 64), (300, 320), (512, 512)):
        exported = (Exported("a", tmp_path, 1), Exported("b", tmp_path, rank))
        assert Serving(str(base), exported).max_rank == room in RANKS


def test_the_command_holds_what_the_training_had_and_the_base_has_not(base: Path, tmp_path: Path) -> None:
    serving = export_vllm([trained(base, tmp_path / name / "adapter") for name in ("floods", "fires")])
    words = shlex.split(serving.command())
    assert words[:4] == ["vllm", "serve", str(base), "--enable-lora"] and words[words.index("--max-loras") + 1] == "2"
    assert words[words.index("--lora-modules") + 1 :] == [f"{name}={tmp_path / name / 'adapter'}" for name in ("floods", "fires")]
    template = Path(words[words.index("--chat-template") + 1])
    assert template.read_text() == load_processor(base)[1].chat_template != load_checkpoint_template(base)
    run_time = serving.command(run_time=True)
    assert run_time.startswith("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve") and "--lora-modules" not in run_time
    body = json.loads(shlex.split(serving.load_requests()[1])[-1])
    assert body == {"lora_name": "fires", "lora_path": str(tmp_path / "fires" / "adapter")}


def load_checkpoint_template(base: Path) -> str:
    """The chat template that a base brings along, as vLLM would find it."""
    return (base / "chat_template.jinja").read_text()


def test_a_base_made_here_needs_no_further_options(base: Path, tmp_path: Path) -> None:
    model, processor = load_checkpoint(base)
    save_checkpoint(model, processor, tmp_path / "base")
    serving = export_vllm([trained(tmp_path / "base", tmp_path / "run" / "adapter")])
    assert serving.options == serving.reasons == ()


def test_a_choice_of_tiles_of_the_training_is_told_to_the_server(tmp_path: Path) -> None:
    base = write("llava_next", tmp_path / "base")
    adapter = tmp_path / "run" / "adapter"
    write_adapter(base, adapter)
    load_processor(base, 64 * 128)[1].save_pretrained(adapter)
    serving = export_vllm([adapter])
    assert "another image_grid_pinpoints than the training's" in serving.reasons[-1]
    assert serving.base == str(tmp_path / "run" / "adapter-base") and serving.options == ()
    config, processor = load_processor(serving.base)
    assert config.image_grid_pinpoints == processor.image_processor.image_grid_pinpoints == [[64, 128], [128, 64]]
    assert (Path(serving.base) / "model.safetensors").resolve() == (base / "model.safetensors").resolve()
    assert load_processor(base)[0].image_grid_pinpoints == [[64, 128], [128, 64], [128, 128]]
    assert (Path(serving.base) / "chat_template.jinja").read_text() == processor.chat_template


@pytest.mark.skipif(not is_torchvision_available(), reason="this base's processor needs torchvision (the vLLM environment has it)")
def test_a_number_of_pixels_of_the_training_is_told_to_the_server(tmp_path: Path) -> None:
    base = write("qwen2_5_vl", tmp_path / "base")
    adapter = tmp_path / "run" / "adapter"
    write_adapter(base, adapter)
    load_processor(base, 56 * 56)[1].save_pretrained(adapter)
    words = shlex.split(export_vllm([adapter]).command())
    assert words[2] == str(base)
    assert json.loads(words[words.index("--mm-processor-kwargs") + 1]) == {"size": {"shortest_edge": 3136, "longest_edge": 3136}}


def test_adapters_that_do_not_go_on_one_server_are_told_apart(base: Path, tmp_path: Path) -> None:
    first, second = (trained(base, tmp_path / name) for name in ("first", "second"))
    with pytest.raises(ConfigError, match="2 adapters need as many names, got 1"):
        export_vllm([first, second], names=["one"])
    with pytest.raises(ConfigError, match=r"two adapters would be called 'x'.*--name"):
        export_vllm([first, second], names=["x", "x"])
    with pytest.raises(ConfigError, match="cannot be the name"):
        export_vllm([first], names=["a=b"])
    (second / "chat_template.jinja").write_text((second / "chat_template.jinja").read_text() + "{# another #}")
    with pytest.raises(InputError, match=r"second' was trained with another chat template than .*first"):
        export_vllm([first, second])
    shutil.copytree(base, tmp_path / "base")
    third = trained(tmp_path / "base", tmp_path / "third")
    with pytest.raises(InputError, match="one server has one base"):
        export_vllm([first, third])


def test_the_command_line_prints_what_was_mended_and_how_to_serve(base: Path, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["export", *map(str, words)])

    adapter = trained(base, tmp_path / "floods" / "adapter", use_rslora=True)
    assert "name the engine" in str(run(adapter).exception)
    done = run(adapter, "--vllm")
    assert done.exit_code == 0
    assert f"floods: {adapter}-vllm\n  rsLoRA's scale went into lora_alpha" in done.output
    assert f"--lora-modules floods={adapter}-vllm" in done.output
    assert "# the base's own chat template renders other prompts than the training's" in done.output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "floods").mkdir()
    assert "holds something else" in str(run(adapter, "--vllm", "--out", tmp_path / "mine").exception)


def test_an_adapter_from_elsewhere_gets_the_processor_of_its_base(base: Path, tmp_path: Path) -> None:
    write_adapter(base, tmp_path / "adapter")
    (one,) = export_vllm([tmp_path / "adapter"], names=["theirs"]).adapters
    assert one.mended == ("the chat template of the training stands beside it",)
    assert (one.folder / "chat_template.jinja").read_text() == load_processor(base)[1].chat_template
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "adapter" / WEIGHTS)
    (one,) = export_vllm([tmp_path / "adapter"], names=["theirs"]).adapters
    assert {tensor.dtype for tensor in load_file(one.folder / WEIGHTS).values()} == {torch.bfloat16}
