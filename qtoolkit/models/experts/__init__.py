"""Take the experts of a mixture apart into linear layers; transformers 5 keeps them in a few large tensors."""

from qtoolkit.models.experts.expert_layouts import ExpertLayout, ExpertLinear
from qtoolkit.models.experts.expert_list import Expert, ExpertList
from qtoolkit.models.experts.expert_tensors import tensors_apart
from qtoolkit.models.experts.finding_experts import (
    MAX_EXPERTS,
    experts_in_one_tensor,
    find_experts,
    merges_experts,
    modules_apart,
    replace_experts,
)

__all__ = [
    "MAX_EXPERTS",
    "Expert",
    "ExpertLayout",
    "ExpertLinear",
    "ExpertList",
    "experts_in_one_tensor",
    "find_experts",
    "merges_experts",
    "modules_apart",
    "replace_experts",
    "tensors_apart",
]
