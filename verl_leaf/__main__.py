"""The command ``verl-leaf``, also ``python -m verl_leaf``: runs it, or says what to install for it."""

import sys


def main() -> int:
    """Run a command; its exit status, 2 where a library is missing."""
    try:
        from verl_leaf.cli import main as run

        return run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "verl_leaf":
            raise
        print(
            f"verl-leaf: the commands need {error.name}, which is not installed: "
            "pip install 'verl-leaf[gpu]', or 'verl-leaf[cpu]' without a GPU",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
