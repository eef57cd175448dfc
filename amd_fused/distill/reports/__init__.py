"""What comes after training: tables of many runs, reports with pictures, Grad-CAM."""

from amd_fused.distill.reports.report import write_report
from amd_fused.distill.reports.sweep_picture import write_sweep_picture
from amd_fused.distill.reports.table import write_comparison, write_table

__all__ = ["write_comparison", "write_report", "write_sweep_picture", "write_table"]
