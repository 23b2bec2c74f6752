"""The version, apart, so that rooms below the top can write it into what they make."""

__version__ = "0.1.0"
