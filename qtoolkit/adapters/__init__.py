"""Low-rank adapters beside quantized weights: peft's layers over ours, and what an adapter's base is called."""
