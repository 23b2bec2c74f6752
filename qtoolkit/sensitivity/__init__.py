"""Measure how much a model's output changes when single layers are rounded: one backward pass, block by block."""

from qtoolkit.sensitivity.block_inputs import inputs_of_groups
from qtoolkit.sensitivity.measuring import NUM_SAMPLES, SEQ_LEN, measure_sensitivity, text_of
from qtoolkit.sensitivity.sensitivity_phase import sensitivity_phase

__all__ = ["NUM_SAMPLES", "SEQ_LEN", "inputs_of_groups", "measure_sensitivity", "sensitivity_phase", "text_of"]
