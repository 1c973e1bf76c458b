"""verl's platform for a machine without an accelerator (verl/plugin/platform, 0.9.1)."""

import contextlib
import types

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


def _device_module() -> types.ModuleType:
    """Return ``torch.cpu`` with the additional functions that verl calls on an accelerator's module.

    Memory counters return 0, memory and stream control do nothing, and the random state is the CPU generator's.
    """
    module = types.ModuleType("verl_leaf.plugin.torch_cpu")
    module.__getattr__ = lambda name: getattr(torch.cpu, name)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(module, name, lambda *args, **kwargs: 0)
    for name in ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "synchronize"):
        setattr(module, name, lambda *args, **kwargs: None)
    module.is_available = lambda: False  # verl checks it before it reads accelerator memory
    module.device_count = lambda: 1
    module.current_device = lambda: torch.device("cpu")
    module.get_device_name = lambda *args: "CPU"
    module.mem_get_info = lambda *args: (psutil.virtual_memory().available, psutil.virtual_memory().total)
    module.manual_seed = module.manual_seed_all = torch.manual_seed
    module.get_rng_state = lambda *args: torch.get_rng_state()
    module.set_rng_state = lambda state, *args: torch.set_rng_state(state)
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """verl's platform for the CPU, registered last so that verl uses it only if no accelerator is available."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> torch.device:
        # verl uses the value in `tensor.to(...)`, where a plain integer means cuda:<integer>.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index) -> None:
        pass

    def synchronize(self, device_index=None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0):
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"  # Ray sets it for its logical GPUs, see ray_resource_name

    @contextlib.contextmanager
    def nvtx_range(self, msg: str):
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        # verl/single_controller/ray/base.py counts only GPU and NPU, so a rank uses one logical GPU
        # (ray_kwargs.ray_init.num_gpus).
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # so weights are sent to vLLM through POSIX shared memory

    def cudart(self):
        return None
