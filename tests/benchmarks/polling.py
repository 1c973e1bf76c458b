"""What a look into TransferQueue costs: ``python -m tests.benchmarks.polling``, two minutes.

For several numbers of rollouts that wait in it: seconds per `kv_list`, and CPU seconds of this process and of the
queue's controller, which answers it.
"""

import time

import psutil
import ray
import transfer_queue as tq

LOOKS = 40


def controller() -> psutil.Process:
    """The process of TransferQueue's controller."""
    return next(
        process
        for process in psutil.Process().children(recursive=True)
        if process.cmdline()[:1] == ["ray::TransferQueueController"]
    )


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    ray.init("local", num_cpus=4, include_dashboard=False)
    tq.init()
    both = [psutil.Process(), controller()]
    filled = 0
    print("rollouts  ms per look  CPU ms here  CPU ms controller")
    for rollouts in (0, 48, 512, 8192, 65536):
        for start in range(filled, rollouts, 4096):
            keys = [f"{number // 8:032x}_{number % 8}_0" for number in range(start, min(start + 4096, rollouts))]
            tags = [{"status": "finished", "global_steps": 1, "seq_len": 512, "prompt_len": 256}] * len(keys)
            tq.kv_batch_put(keys=keys, partition_id="train", tags=tags)
        filled = rollouts
        tq.kv_list()
        before, began = [cpu_seconds(process) for process in both], time.perf_counter()
        for _ in range(LOOKS):
            tq.kv_list()
        took = time.perf_counter() - began
        here, there = (cpu_seconds(process) - start for process, start in zip(both, before, strict=True))
        print(f"{rollouts:8}  {took / LOOKS * 1e3:11.2f}  {here / LOOKS * 1e3:11.2f}  {there / LOOKS * 1e3:17.2f}")


if __name__ == "__main__":
    main()
