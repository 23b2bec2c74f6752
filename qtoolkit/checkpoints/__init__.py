"""Read and check the files of a checkpoint: safetensors, a folder, `.gguf` files, configs."""
