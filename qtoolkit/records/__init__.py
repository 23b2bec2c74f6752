"""The boxes that flow from room to room: frozen, versioned, drawn from one list of rows."""

from qtoolkit.records.base import Record, Row
from qtoolkit.records.calibration import CalibrationReport, LayerError
from qtoolkit.records.doctor import Doctor
from qtoolkit.records.event import OnProgress, ProgressEvent, ignore_progress
from qtoolkit.records.machine import THIS_MACHINE, Machine, Speed
from qtoolkit.records.memory import MemoryReport, PeakMemory
from qtoolkit.records.phase import PhasePlan, Term
from qtoolkit.records.plan import Advice, LayerPlan, Plan
from qtoolkit.records.publication import Publication
from qtoolkit.records.receipt import Behaviour, FileEntry, Probe, Receipt
from qtoolkit.records.recommendation import Candidate, Recommendation
from qtoolkit.records.result import QuantizationReport
from qtoolkit.records.source import ModelSource
from qtoolkit.records.verification import Check, Verification

__all__ = [
    "THIS_MACHINE",
    "Advice",
    "Behaviour",
    "CalibrationReport",
    "Candidate",
    "Check",
    "Doctor",
    "FileEntry",
    "LayerError",
    "LayerPlan",
    "Machine",
    "MemoryReport",
    "ModelSource",
    "OnProgress",
    "PeakMemory",
    "PhasePlan",
    "Plan",
    "Probe",
    "ProgressEvent",
    "Publication",
    "QuantizationReport",
    "Receipt",
    "Recommendation",
    "Record",
    "Row",
    "Speed",
    "Term",
    "Verification",
    "ignore_progress",
]
