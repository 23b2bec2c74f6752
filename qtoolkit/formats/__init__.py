"""How codes are stored in files: one package for each format."""
