"""Define the request of each verb: a frozen dataclass whose fields carry help, choices and unit.

Signatures, docstrings, magics, TOML and panels are derived from these fields, so that an option is written once.
"""

from qtoolkit.requests.candidates_request import CandidatesRequest
from qtoolkit.requests.compare_request import CompareRequest
from qtoolkit.requests.convert_request import ConvertRequest
from qtoolkit.requests.evaluate_request import EvaluateRequest
from qtoolkit.requests.find_models_request import FindModelsRequest
from qtoolkit.requests.frontier_request import FrontierRequest
from qtoolkit.requests.load_request import LoadRequest
from qtoolkit.requests.merge_request import MergeRequest
from qtoolkit.requests.model import DEFAULT_CONTEXT, ModelSource
from qtoolkit.requests.option_field import Request, describe, option
from qtoolkit.requests.plan_request import PlanRequest
from qtoolkit.requests.publish_request import CardOptions, PublishRequest
from qtoolkit.requests.quantize_request import QuantizeRequest
from qtoolkit.requests.recommend_request import RecommendRequest
from qtoolkit.requests.repair_request import RepairRequest
from qtoolkit.requests.run_tasks_request import RunTasksRequest
from qtoolkit.requests.text import TextOptions
from qtoolkit.requests.verb import arguments_of, verb
from qtoolkit.requests.verify_request import VerifyRequest

__all__ = [
    "DEFAULT_CONTEXT",
    "CandidatesRequest",
    "CardOptions",
    "CompareRequest",
    "ConvertRequest",
    "EvaluateRequest",
    "FindModelsRequest",
    "FrontierRequest",
    "LoadRequest",
    "MergeRequest",
    "ModelSource",
    "PlanRequest",
    "PublishRequest",
    "QuantizeRequest",
    "RecommendRequest",
    "RepairRequest",
    "Request",
    "RunTasksRequest",
    "TextOptions",
    "VerifyRequest",
    "arguments_of",
    "describe",
    "option",
    "verb",
]
