"""The command ``verl-leaf``, also ``python -m verl_leaf``."""

import sys


def main() -> int:
    """Run a command, and return its exit status; if a library is missing, say what to install and return 2."""
    try:
        from verl_leaf.cli import main as run

        return run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "verl_leaf":
            raise
        print(
            f"verl-leaf: the commands need {error.name}, which is not installed. Run "
            "pip install 'verl-leaf[gpu]', or 'verl-leaf[cpu]' without a GPU",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
