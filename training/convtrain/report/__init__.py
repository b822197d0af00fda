"""The report of a run: `report.json` for scripts, and `report.html`, one file that holds all its pictures, for people.

::

    content.py    gathers the figures; this is report.json
    figures.py    draws them
    page.py       puts drawings and tables on a page
"""

from __future__ import annotations

from convtrain.report.content import Report, Sources, gather
from convtrain.report.page import render

__all__ = ["Report", "Sources", "gather", "render"]
