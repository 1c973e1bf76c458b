"""The tool of tests/helpers/letter_task.py, as verl loads it by ``function_tool_path``."""

from verl.tools.function_tool import function_tool

from examples.next_letter.prepare import shift


@function_tool
def after(letter: str) -> str:
    """Tell the letter after another.

    Args:
        letter: the letter before it.
    """
    return shift(letter, 1)
