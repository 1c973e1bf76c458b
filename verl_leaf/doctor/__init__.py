"""Command ``verl-leaf doctor``: check whether an environment, a GPU or a model can be used for training."""

from verl_leaf import __version__


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", nargs="?", help="model folder or hub name to check (default: check the environment)")
    add("--gpu", action="store_true", help="run tiny models on the GPU and check the results")
    add("--gpus", type=int, help="also check whether the published configuration for the model fits on this many GPUs")
    add("--memory", type=float, default=79.1, help="memory of each GPU in GiB (default: %(default)s, an 80 GB GPU)")


def main(options) -> int:
    """Check the environment, the GPU or a model; return 1 if something would break a run."""
    if options.gpu and options.model is not None:
        raise ValueError(f"--gpu makes its own models. Remove {options.model}")
    if options.gpus is not None and (options.gpus < 1 or options.model is None):
        raise ValueError(f"--gpus {options.gpus}: set it to 1 or more, and name a model")
    print(f"verl-leaf {__version__}", flush=True)  # the imports take seconds
    from verl_leaf.doctor.examine import examine, examine_gpu, examine_model

    if options.gpu:
        return examine_gpu()
    return examine_model(options.model, options.gpus, options.memory) if options.model else examine()
