"""Fuzzing of what reads strangers' bytes: `python -m tests.fuzz TARGET --seconds N`.

`targets` says what must hold for any input, and what to begin with; `guided` is driven by
coverage (atheris), `plain` by chance alone and needs nothing. What either found once is kept in
``cases/TARGET/`` and tried again by every run and by the tests.
"""
