"""The boxes that flow from room to room: frozen, versioned, drawn from one list of rows."""

from qtoolkit.records.base import Record, Row
from qtoolkit.records.calibration import CalibrationReport, LayerError
from qtoolkit.records.doctor import Doctor
from qtoolkit.records.event import OnProgress, ProgressEvent, ignore_progress
from qtoolkit.records.memory import MemoryReport, PeakMemory
from qtoolkit.records.plan import LayerPlan, Plan
from qtoolkit.records.result import QuantizationReport
from qtoolkit.records.source import ModelSource

__all__ = [
    "CalibrationReport",
    "Doctor",
    "LayerError",
    "LayerPlan",
    "MemoryReport",
    "ModelSource",
    "OnProgress",
    "PeakMemory",
    "Plan",
    "ProgressEvent",
    "QuantizationReport",
    "Record",
    "Row",
    "ignore_progress",
]
