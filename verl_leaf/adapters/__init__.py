"""The estimators in other trainers: one file per trainer, which imports it, and ``token_credit.py``, which they share.

Each file needs its trainer, and otherwise only what ``pip install verl-leaf`` installs. README.md describes their use.
"""
