"""Programs for the developers: each is run by `python -m scripts.NAME`."""
