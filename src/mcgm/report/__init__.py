"""Results of training runs, and the report that is made of them."""

from mcgm.report.page import report_command, write_report
from mcgm.report.predictions import ClusteredMolecule, ClusterLevel, Predictions, load_molecules, save_molecules
from mcgm.report.result import CurvePoint, Metrics, RunResult, read_results

__all__ = [
    "ClusterLevel",
    "ClusteredMolecule",
    "CurvePoint",
    "Metrics",
    "Predictions",
    "RunResult",
    "load_molecules",
    "read_results",
    "report_command",
    "save_molecules",
    "write_report",
]
