"""Reports by the name of their file."""

from __future__ import annotations

from pathlib import Path

from ptc_stream.errors import ConfigurationError
from ptc_stream.export.html_report import write_html_report
from ptc_stream.export.pdf_report import write_pdf_report
from ptc_stream.export.report import RunReport

__all__ = ["save_report"]

_WRITERS = {".html": write_html_report, ".pdf": write_pdf_report}


def save_report(report: RunReport, path: str | Path) -> Path:
    """Write a report as what its file is called: ``.html`` or ``.pdf``.

    Parameters
    ----------
    report
        The run.
    path
        The file; missing directories are made, an older file is replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ConfigurationError
        It is called something else, or cannot be written.
    InvalidRecord
        The covariances of the run are not those that its fits were made of.
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise ConfigurationError(f"{path}: a report is called {' or '.join('*' + end for end in _WRITERS)}")
    return writer(report, path)
