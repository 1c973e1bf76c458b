"""Command ``verl-leaf prepare``: convert corpora on disk to the parquet files that verl trains on.

A corpus is one module with ``HELP``, ``add_arguments(parser)`` and ``read(options) -> Corpus``; ``write.py`` does the rest.
"""

import importlib

CORPORA = ("librisqa", "covost2", "dailytalk", "parliament", "fillets", "asterisk", "voicebench", "audioqa", "manifest")


def add_arguments(parser) -> None:
    """Add the command's arguments, with one sub-command per corpus."""
    from pathlib import Path

    names = parser.add_subparsers(dest="corpus", required=True)
    for name in CORPORA:
        module = importlib.import_module(f"verl_leaf.prepare.{name}")
        corpus = names.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(corpus)
        corpus.add_argument("--out", type=Path, required=True, help="folder to write; give it again to resume")
        corpus.add_argument(
            "--prompt", help="one phrasing for all rows, with {question} and {choices} if the rows have them"
        )
        corpus.add_argument("--embed", action="store_true", help="store audio in the parquet files instead of its path")
        corpus.add_argument("--workers", type=int, help="number of processes (default: one per core)")
        corpus.add_argument("--shard-rows", type=int, default=20000, help="rows per file (default: %(default)s)")


def main(options) -> int:
    """Read a corpus and write it as parquet files."""
    from verl_leaf.prepare.write import write

    for name, value in (("--workers", options.workers), ("--shard-rows", options.shard_rows)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: set it to 1 or more")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"{options.out} is not a folder. Choose another --out")
    try:
        corpus = importlib.import_module(f"verl_leaf.prepare.{options.corpus}").read(options)
        write(corpus, options.out, options.prompt, options.embed, options.workers, options.shard_rows)
    except OSError as error:
        raise ValueError(f"{error.filename or options.out}: {error.strerror or error}") from error
    return 0
