"""Hold the results of jobs as frozen, versioned dataclasses, shown as text and HTML from one list of rows."""

from qtoolkit.records.adapter_receipt import AdapterReceipt
from qtoolkit.records.answers import Answers
from qtoolkit.records.archive import Archive
from qtoolkit.records.base import Grid, Record, Row
from qtoolkit.records.calibration import CalibrationReport, LayerError
from qtoolkit.records.comparison import FULL_PRECISION, Compared, Comparison, in_order
from qtoolkit.records.conversion import Conversion
from qtoolkit.records.doctor import Doctor
from qtoolkit.records.event import OnProgress, ProgressEvent, ignore_progress
from qtoolkit.records.frontier import Frontier, Unmeasured, by_size
from qtoolkit.records.layer_plan import LayerPlan
from qtoolkit.records.machine import THIS_MACHINE, Machine, Speed
from qtoolkit.records.memory import MemoryReport, PeakMemory
from qtoolkit.records.phase import PhasePlan, Term
from qtoolkit.records.plan import Advice, Plan
from qtoolkit.records.publication import Publication, PublishedFormat
from qtoolkit.records.quality import QualityReport, SpeedReport
from qtoolkit.records.reading import Reading
from qtoolkit.records.receipt import Behaviour, FileEntry, Probe, Receipt, TakenOver
from qtoolkit.records.recommendation import Candidate, Recommendation
from qtoolkit.records.repair import Repair
from qtoolkit.records.result import QuantizationReport
from qtoolkit.records.search_results import FoundModel, FoundModels
from qtoolkit.records.sensitivity import RoundingLoss, Sensitivity
from qtoolkit.records.source import ModelSource
from qtoolkit.records.tasks import TaskMetric, TaskReport
from qtoolkit.records.verification import NONE_RUN, NOT_COMPARED, Check, OnCheck, Verification
from qtoolkit.records.worker_plan import WorkerPlan

__all__ = [
    "FULL_PRECISION",
    "NONE_RUN",
    "NOT_COMPARED",
    "THIS_MACHINE",
    "AdapterReceipt",
    "Advice",
    "Answers",
    "Archive",
    "Behaviour",
    "CalibrationReport",
    "Candidate",
    "Check",
    "Compared",
    "Comparison",
    "Conversion",
    "Doctor",
    "FileEntry",
    "FoundModel",
    "FoundModels",
    "Frontier",
    "Grid",
    "LayerError",
    "LayerPlan",
    "Machine",
    "MemoryReport",
    "ModelSource",
    "OnCheck",
    "OnProgress",
    "PeakMemory",
    "PhasePlan",
    "Plan",
    "Probe",
    "ProgressEvent",
    "Publication",
    "PublishedFormat",
    "QualityReport",
    "QuantizationReport",
    "Reading",
    "Receipt",
    "Recommendation",
    "Record",
    "Repair",
    "RoundingLoss",
    "Row",
    "Sensitivity",
    "Speed",
    "SpeedReport",
    "TakenOver",
    "TaskMetric",
    "TaskReport",
    "Term",
    "Unmeasured",
    "Verification",
    "WorkerPlan",
    "by_size",
    "ignore_progress",
    "in_order",
]
