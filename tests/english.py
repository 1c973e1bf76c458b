"""Find English in the given files that careful readers stumble over: `python tests/english.py FILE...`.

codespell checks the spelling, ruff's D401 that docstrings of functions are imperative, and this the rest.
"""

import ast
import re
import sys
from pathlib import Path

RULES = {
    r"\bve[R]L\b": "verl",
    r"(?<![Tt]here\s)\b(is|are)\s+no\s+(?!longer\b)[A-Za-z]\w*": "'is not a ...', or 'there is no ...'",
    r"\bgo(es)?\s+on\b": "continue, resume or proceed",
    r"\bbut\s+for\b": "except",
    r"\b(valid|wanted|allowed|read)\s+are\b": "name what they are first: 'The valid values are ...'",
    r"\bof\s+(ours|theirs)\b": "our or their, or whose it is",
}
"""What not to write, and what to write instead."""
BEGINNING = re.compile(r"(Of|As|By|Where|Whether)\b")
"""Words that no docstring begins with."""


def findings(file: str) -> list[str]:
    """Return a line for each place in a file that breaks a rule."""
    text = Path(file).read_text(encoding="utf-8")
    found = [
        (text.count("\n", 0, place.start()) + 1, f"{' '.join(place[0].split())!r}. Write {instead}")
        for rule, instead in RULES.items()
        for place in re.finditer(rule, text)
    ]
    if file.endswith(".py"):
        strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
        for string in strings:
            value = getattr(string, "value", None)
            if isinstance(value, str) and (word := BEGINNING.match(value)):
                found.append((string.lineno, f"the docstring begins with {word[0]}. Say what it is or does"))
    return [f"{file}:{line}: {what}" for line, what in sorted(found)]


if __name__ == "__main__":
    sys.exit("\n".join(line for file in sys.argv[1:] for line in findings(file)) or None)
