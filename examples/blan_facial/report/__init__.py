"""What a person looks at after training: pictures for the output folder, tables for the terminal."""

from blan_facial.report.tables import metrics_table, parameters_table
from blan_facial.report.writing import write_pictures

__all__ = ["metrics_table", "parameters_table", "write_pictures"]
