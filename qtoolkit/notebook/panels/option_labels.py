"""Name the options of methods in plain words, as labels of a panel's fields; their hints have the names of the API."""

# Short enough for the column of labels; what stands behind a box to tick may be longer.
_LABELS = {
    "bits": "Bits",
    "calibration": "Calibration text",
    "calibration_column": "Column of texts",
    "checkpoint_format": "Zero points as",
    "compute_dtype": "Calculates in",
    "damp_percent": "Dampening",
    "desc_act": "Form groups by activation",
    "double_quant": "Quantize the scales too",
    "embeddings": "Embedding bits",
    "engine": "Engine",
    "exclude": "Leave as they are",
    "format": "Format",
    "full_range": "Use the full range of codes",
    "granularity": "One scale for",
    "group_size": "Group size",
    "imatrix": "Importance file",
    "include": "Quantize also",
    "lossy": "Allow rounded minima",
    "modelfile": "Write a Modelfile for Ollama",
    "num_samples": "Samples",
    "order": "Column order",
    "propagate": "Make good what earlier blocks lost",
    "qep_alpha": "Share made good",
    "quant_type": "Type of weights",
    "refine": "Refining rounds",
    "seq_len": "Sample length",
    "shards": "Shards",
    "solve": "Choose codes by the text",
    "sym": "Symmetric codes",
    "target_bits": "Mean bits at most",
    "target_size": "Size at most",
    "tensor_type": "One type for all",
    "threshold": "Outliers from",
    "token_weights": "Weigh tokens",
    "true_sequential": "Layers one after the other",
}


def label_of(name: str) -> str:
    """Return the label of an option; of another package's, its name with blanks: "num_rounds" is "Num rounds"."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())
