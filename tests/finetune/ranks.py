"""Runs recipes on several processes that are forked from one which has imported everything: torchrun in a second instead of twenty.

A server: reads one JSON job per line, `{"processes": 2, "recipe": {...}, "log": "FILE"}`, forks its processes with the environment
that torchrun gives, and answers with one line: the exit codes, and the last line of the first process' log.
"""

import contextlib
import faulthandler
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

LIMIT = 240  # seconds after which a hanging process shows where it hangs, and ends


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


class Ranks:
    """The server's other end."""

    def __init__(self) -> None:
        env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def run(self, recipe: dict, processes: int = 2) -> tuple[list[int], str]:
        """Exit codes of all processes, and the last line that the first one printed."""
        assert self.server.stdin is not None and self.server.stdout is not None
        out = Path(recipe["train"]["output_dir"])
        job = {"processes": processes, "recipe": recipe, "log": str(out.with_name(out.name + ".log"))}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        return answer["codes"], answer["said"]

    def train(self, recipe: dict, processes: int = 2) -> Path:
        """Run a recipe to its end; its folder."""
        codes, said = self.run(recipe, processes)
        assert codes == [0] * processes, said
        return Path(recipe["train"]["output_dir"])

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def _become(rank: int, job: dict[str, Any], port: str) -> None:
    """One process of a job; does not return."""
    code = 1
    handle = os.open(job["log"] if rank == 0 else f"{job['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    world = str(job["processes"])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=port)
    try:
        train(parse_recipe(job["recipe"]))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)


def _serve() -> None:
    for line in sys.stdin:
        job, port = json.loads(line), free_port()
        children = []
        for rank in range(job["processes"]):
            child = os.fork()
            if child == 0:
                _become(rank, job, port)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        said = Path(job["log"]).read_text(errors="replace").strip().splitlines() or [""]
        print(json.dumps({"codes": codes, "said": said[-1]}), flush=True)


if __name__ == "__main__":
    # before the forks, as all that takes long
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401
    import torch.distributed.checkpoint  # noqa: F401
    import transformers.trainer  # noqa: F401

    from geotempo.finetune.recipe import parse_recipe
    from geotempo.finetune.train import train

    # Only answers go to the pipe: what a library prints while it is imported or forked goes to stderr.
    _serve()
