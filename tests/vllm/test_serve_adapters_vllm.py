"""The command that `geotempo export` prints, run: adapters go into a running server and are chosen by name."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

pytest.importorskip("vllm", reason="vLLM is not installed (.ci/vllm_cpu/install.sh)")

from geotempo.model.checkpoints import load_checkpoint, load_processor
from tests.tiny_adapters import write_adapter
from tests.vllm.tuned import ANSWERS, TOKENS, Tuned, generate, openai_messages, tune

pytestmark = pytest.mark.timeout(900)  # a server's start is 40 seconds on two free cores
# What the printed command leaves to the machine: a CPU in float32, and room for a tiny model.
CPU = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "4", "--host", "127.0.0.1"]


class Server:
    """A `vllm serve` process and its HTTP API."""

    def __init__(self, command: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = shlex.split(command)
        settings = dict(word.split("=", 1) for word in words[: words.index("vllm")])
        program = Path(sys.executable).with_name("vllm")
        self.log = log
        self.process = subprocess.Popen([str(program), *words[words.index("vllm") + 1 :], *CPU, "--port", str(self.port)],
                                        env=os.environ | settings, stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, seconds: float = 600) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        raise TimeoutError(self.log.read_text()[-3000:])

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """Status and text of a request; POST where it has a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tokens(self, model: str, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """Prompt and greedy answer of a model by name."""
        status, text = self.ask("/v1/chat/completions", {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS,
                                                         "return_token_ids": True})
        assert status == 200, text
        reply = json.loads(text)
        return reply["prompt_token_ids"], reply["choices"][0]["token_ids"]

    def names(self) -> set[str]:
        """Names of the models it serves."""
        return {model["id"] for model in json.loads(self.ask("/v1/models")[1])["data"]}

    def stop(self) -> None:
        """End it and its workers."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def server(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tuned.serving.command(run_time=True), tmp_path_factory.mktemp("log") / "vllm.txt")
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def test_two_adapters_are_loaded_at_run_time_and_chosen_by_name(tuned: Tuned, server: Server) -> None:
    messages = [openai_messages(prompt) for prompt in tuned.prompts]
    base = str(tuned.base)
    assert server.names() == {base}
    alone = [server.tokens(base, message) for message in messages]
    assert server.ask("/v1/chat/completions", {"model": "first", "messages": messages[0]})[0] == 404
    for request in tuned.serving.load_requests():
        status, text = server.ask("/v1/load_lora_adapter", json.loads(shlex.split(request)[-1]))
        assert status == 200, text
    assert server.names() == {base, *ANSWERS}
    model, _ = load_checkpoint(tuned.base)
    _, processor = load_processor(tuned.base, own=tuned.adapters["first"])
    answers = {"base": alone}
    for name, folder in tuned.adapters.items():
        adapted = PeftModel.from_pretrained(model, folder).eval()
        ours = [generate(adapted, processor, prompt)[0] for prompt in tuned.prompts]
        model = adapted.unload()
        answers[name] = [server.tokens(name, message) for message in messages]
        assert answers[name] == [(written.prompt, written.answer) for written in ours]
        changed, unchanged = ANSWERS[name]
        assert [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for _, ids in answers[name]] == [unchanged, changed] * 2
    assert answers["first"] != answers["second"] != answers["base"] != answers["first"]
    assert [server.tokens(base, message) for message in messages] == alone  # the base stays what it was


def test_what_the_export_refuses_as_unknown_the_server_refuses_at_run_time(tuned: Tuned, server: Server, tmp_path: Path) -> None:
    write_adapter(tuned.base, tmp_path / "dora", use_dora=True)
    status, text = server.ask("/v1/load_lora_adapter", {"lora_name": "dora", "lora_path": str(tmp_path / "dora")})
    assert status >= 400, text  # vLLM 0.32: 500
    assert "DoRA" in text
    assert "dora" not in server.names()
