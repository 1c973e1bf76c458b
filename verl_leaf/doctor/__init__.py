"""``verl-leaf doctor``: whether an environment, a model or a GPU can be trained with, and what to do if not."""

from verl_leaf import __version__


def add_arguments(parser) -> None:
    """The command's arguments."""
    parser.add_argument("model", nargs="?", help="model folder or hub name; without one, the environment")
    parser.add_argument("--gpu", action="store_true", help="run tiny models on the GPU and check what it computes")
    parser.add_argument("--gpus", type=int, help="does the published configuration for the model fit so many GPUs?")
    parser.add_argument(
        "--memory", type=float, default=79.1, help="of each GPU, GiB (default: %(default)s, a card of 80 GB)"
    )


def main(options) -> int:
    """Examine the environment, the GPU or a model; 1 if something would break a run."""
    if options.gpu and options.model is not None:
        raise ValueError(f"--gpu makes its own models: leave out {options.model}")
    if options.gpus is not None and (options.gpus < 1 or options.model is None):
        raise ValueError(f"--gpus {options.gpus}: must be 1 or more, with a model")
    print(f"verl-leaf {__version__}", flush=True)  # the imports take seconds
    from verl_leaf.doctor.examine import examine, examine_gpu, examine_model

    if options.gpu:
        return examine_gpu()
    return examine_model(options.model, options.gpus, options.memory) if options.model else examine()
