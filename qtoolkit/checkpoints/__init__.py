"""A checkpoint as files: safetensors, a folder, a `.gguf` header, and what their configs may say."""
