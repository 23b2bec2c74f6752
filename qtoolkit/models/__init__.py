"""Open models of the Hub, a folder, a `.gguf` file or memory, and build them without their weights."""
