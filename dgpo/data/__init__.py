"""Files of problems: `files` reads their rows, `report` says what is in them, `overlap` what two of them share."""

from dgpo.data.files import DataError, read_rows
from dgpo.data.overlap import Row, contamination, matched
from dgpo.data.report import Report, load, main

__all__ = ["DataError", "Report", "Row", "contamination", "load", "main", "matched", "read_rows"]
