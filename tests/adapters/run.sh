#!/usr/bin/env bash
# Make an environment that contains a trainer, and test the trainer's adapter in it, without a GPU.
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
    # ms-swift 4.6.0 imports msgspec without requiring it, and its Qwen2-Audio does not run with transformers 5.19. The other
    # packages are needed to read audio and to make the spoken task.
    install_into "$venv" cpu "${common[@]}" "ms-swift==4.6.*" transformers==5.10.4 msgspec librosa soundfile soxr \
      sacrebleu pyarrow espeakng-loader
    ;;
  openrlhf)
    install_into "$venv" cpu "${common[@]}" "ray[default]==2.55.0" transformers==5.15.0 deepspeed==0.19.6 setuptools \
      accelerate peft datasets tensorboard torchdata pylatexenc
    # The other requirements that it declares are for GPUs, or not needed here.
    install_into "$venv" cpu --no-deps "openrlhf==0.11.*"
    ;;
  *) echo "$NAME is not valid. Valid values are trl, ms_swift, openrlhf" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$venv/bin/python" -m pytest tests/adapters/test_token_credit.py "tests/adapters/test_$NAME.py" "${@:2}"
