"""The estimators in other trainers: a file per trainer, which imports it, and ``token_credit.py``, which they share.

Each needs its trainer and what ``pip install verl-leaf`` brings. README.md beside this file says how each is used.
"""
