"""What people look at after, or during, a run: trees of a step, forks over training, learning curves."""

from rich.console import Console


def say_skipped(title: str, sentences: list[str], console: Console) -> None:
    """Say what a page or figure does not show, one line per sentence."""
    for sentence in sentences:
        console.print(f"{title}: {sentence}", markup=False, highlight=False, soft_wrap=True)
