"""The report: what an index holds and how it routes, as one HTML page that needs no network.

Router, cases, log --gather--> Report --render--> HTML
"""

from semroute.report.gather import Report, gather
from semroute.report.page import render

__all__ = ["Report", "gather", "render"]
