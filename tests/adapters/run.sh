#!/usr/bin/env bash
# Make an environment with a trainer in it and test its adapter there, without a GPU.
#
#   bash tests/adapters/run.sh trl|ms_swift|openrlhf [pytest arguments]     VENV=folder (default .venv-NAME)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
NAME=${1:?trl, ms_swift or openrlhf}
venv=$(realpath -m "${VENV:-.venv-$NAME}")
common=(-e . torch==2.13.0 pytest hypothesis)
case $NAME in
  trl) install_into "$venv" cpu "${common[@]}" "trl==1.16.*" peft ;;
  ms_swift)
    # ms-swift 4.6.0 imports msgspec without asking for it, and its Qwen2-Audio does not run with transformers 5.19. The
    # others are for audio: to read it, and to make the spoken task.
    install_into "$venv" cpu "${common[@]}" "ms-swift==4.6.*" transformers==5.10.4 msgspec librosa soundfile soxr \
      sacrebleu pyarrow espeakng-loader
    ;;
  openrlhf)
    install_into "$venv" cpu "${common[@]}" "ray[default]==2.55.0" transformers==5.15.0 deepspeed==0.19.6 setuptools \
      accelerate peft datasets tensorboard torchdata pylatexenc
    # What it declares beside these is for GPUs, or not asked for here.
    install_into "$venv" cpu --no-deps "openrlhf==0.11.*"
    ;;
  *) echo "$NAME: valid are trl, ms_swift, openrlhf" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$venv/bin/python" -m pytest tests/adapters/test_token_credit.py "tests/adapters/test_$NAME.py" "${@:2}"
