"""Whole jobs, each from its checks to its report; the verbs of `qtoolkit.api` call them."""
