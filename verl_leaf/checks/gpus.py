"""Check of whether torch can use the GPUs that nvidia-smi lists; the recipes run it before they start anything."""

import os
import re
import shutil
import subprocess
import sys

LEAST_DRIVERS = {"12": 525, "13": 580}  # oldest NVIDIA driver by the major version of the CUDA that torch is built for


def listed_gpus() -> str | None:
    """Return number, name and driver of the GPUs that nvidia-smi lists, or None without a GPU or nvidia-smi."""
    gpus = _asked("name", "driver_version")
    return f"{len(gpus)} x {gpus[0][0]}, driver {gpus[0][1]}" if gpus else None


def gpu_memory() -> float | None:
    """Return the GiB that programs can use on the smallest GPU, or None if nvidia-smi does not report it."""
    sizes = [
        float(total) - float(reserved)
        for total, reserved in _asked("memory.total", "memory.reserved")
        if (total + reserved).isdigit()
    ]
    return min(sizes) / 1024 if sizes else None


def _asked(*what: str) -> list[list[str]]:
    """Return the values that nvidia-smi reports for each GPU, in the units of nvidia-smi."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = [smi, f"--query-gpu={','.join(what)}", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    return [values for line in listed if len(values := [value.strip() for value in line.rsplit(",", 1)]) == len(what)]


def gpu_problem(listed: str) -> tuple[str, str] | None:
    """Return why torch cannot use the GPUs and what to do, or None if it can use them."""
    import torch

    if torch.version.cuda is None:
        problem = f"{listed}; torch {torch.__version__} is built for the CPU"
        return problem, "pip install 'verl-leaf[gpu]' in an environment of its own"
    try:
        torch.cuda.init()
        if torch.cuda.device_count():
            return None
        reason = "it finds no GPU"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
    problem = f"{listed}; torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use them: {reason}"
    driver = re.search(r"driver (\d+)", listed)
    least = LEAST_DRIVERS.get(torch.version.cuda.split(".")[0])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver and least and int(driver[1]) < least:
        remedy = f"install driver {least} or newer, which CUDA {torch.version.cuda} needs"
    elif visible is not None:
        remedy = f"CUDA_VISIBLE_DEVICES={visible!r} may hide them. Unset it"
    else:
        remedy = "check that `nvidia-smi` and `python -c 'import torch; torch.cuda.init()'` both work for this user"
    return problem, remedy


def main() -> int:
    """Return exit status 1, and print the reason to standard error, if there are GPUs that torch cannot use."""
    listed = listed_gpus()
    problem = gpu_problem(listed) if listed else None
    if problem:
        print(f"GPUs: {problem[0]}\n{problem[1]}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
