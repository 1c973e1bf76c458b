"""verl finds some impossible settings only after it has started its engines.

verl/utils/config.py validate_config (0.9.1) is the first function that main_ppo calls with the whole configuration, before
Ray starts. Our own checks are added to it.
"""

import functools
from types import ModuleType

from verl_leaf.patches.base import expect, rebind


def _patch(config_module: ModuleType) -> str:
    original = expect(config_module, "validate_config", "config", "use_reference_policy", "use_critic")

    @functools.wraps(original)
    def validate_config(config, use_reference_policy, use_critic):
        from verl_leaf.checks.config import check_run

        check_run(config)
        return original(config, use_reference_policy, use_critic)

    rebind(original, validate_config)
    return "active: verl does not check the settings of LEAF, of speech models and of rewards"


HOOKS = {"verl.utils.config": _patch}
