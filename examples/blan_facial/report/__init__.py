"""What a person looks at after training: pictures and a page for the output folder, tables for the terminal."""

from blan_facial.report.page.run import write_report
from blan_facial.report.sample import draw_sample
from blan_facial.report.writing import write_pictures
from blan_facial.results.terminal import metrics_table, parameters_table

__all__ = ["draw_sample", "metrics_table", "parameters_table", "write_pictures", "write_report"]
