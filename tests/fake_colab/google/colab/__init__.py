"""Stand for Colab's package: `COLAB_SECRETS` holds secrets as JSON, and Drive is a folder."""
