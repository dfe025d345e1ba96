"""Every exception of ptc_stream, in one tree, and what a service does about each.

::

    PtcStreamError
    ├── ConfigurationError        the settings or the command line are at fault          -> STOP
    │   └── StoreMismatch         a store was made under other settings                  -> STOP
    ├── RecordError               this one record is at fault                            -> REJECT
    │   ├── DecodeError           its bytes are not what the schemas say
    │   └── InvalidRecord         its bytes are fine, its values are not
    ├── ImageError                the exposure is at fault                               -> REJECT
    │   ├── ImageMissing          there is no such file (it may still come)              -> RETRY
    │   ├── ImageChanged          it is not the file that was announced (a newer revision is)
    │   ├── ImageUnreadable       it is there, but it is not a whole FITS file
    │   └── GeometryError         it is FITS, but not the detector that was described
    ├── MeasurementError          the pixels of a pair cannot be compared                -> REJECT
    ├── StorageUnavailable        time-out, stale mount, I/O error: nobody's fault       -> RETRY
    ├── OffloadError              a job did not come back, twice and alone               -> REJECT
    │   ├── WorkerDied            the process that held it is gone
    │   └── JobTimeout            it passed its deadline
    ├── TooManyRejects            so much in a row cannot be the records' fault          -> STOP
    └── BusError
        ├── BusUnavailable        the log cannot be reached or is locked                 -> RETRY
        ├── StoreInUse            another process owns this store                        -> STOP
        ├── PartitionLost         another owner has fenced us out                        -> FORGET_PARTITION
        └── PositionLost          the log no longer holds what we must read              -> STOP

An error carries its message for people; ``reason`` is the code that a rejected record carries.
A fit that fails is not an exception but a status (`ptc_stream.physics.fitting`).
"""

from __future__ import annotations

from enum import StrEnum, unique

__all__ = [
    "BusError",
    "BusUnavailable",
    "ConfigurationError",
    "DecodeError",
    "Disposition",
    "GeometryError",
    "ImageChanged",
    "ImageError",
    "ImageMissing",
    "ImageUnreadable",
    "InvalidRecord",
    "JobTimeout",
    "MeasurementError",
    "OffloadError",
    "PartitionLost",
    "PositionLost",
    "PtcStreamError",
    "RecordError",
    "StorageUnavailable",
    "StoreInUse",
    "StoreMismatch",
    "TooManyRejects",
    "WorkerDied",
    "disposition",
]


@unique
class Disposition(StrEnum):
    """What a service does about an error."""

    RETRY = "retry"
    REJECT = "reject"
    FORGET_PARTITION = "forget partition"
    STOP = "stop"


class PtcStreamError(Exception):
    """Root of all errors that ptc_stream raises on purpose."""

    disposition = Disposition.STOP
    exit_code = 1

    @property
    def reason(self) -> str:
        """Code of this error in a rejected record, for example ``IMAGE_UNREADABLE``."""
        name = type(self).__name__
        return "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


class ConfigurationError(PtcStreamError):
    """A setting, an option or a file named by one is wrong or would have no effect."""

    exit_code = 2


class StoreMismatch(ConfigurationError):
    """A store was made under other settings than the ones now given."""


class RecordError(PtcStreamError):
    """One record is at fault; its neighbours are not."""

    disposition = Disposition.REJECT


class DecodeError(RecordError):
    """Bytes that no schema explains."""


class InvalidRecord(RecordError):
    """A well-formed record with values that cannot be."""


class ImageError(PtcStreamError):
    """An exposure that cannot be used."""

    disposition = Disposition.REJECT


class ImageMissing(ImageError):
    """There is no file at this URI, or not yet."""

    disposition = Disposition.RETRY


class ImageChanged(ImageError):
    """The file has been replaced since it was announced; its new revision is a matter of its own."""


class ImageUnreadable(ImageError):
    """A file that is not FITS, or not all of it."""


class GeometryError(ImageError):
    """FITS sections that are missing, impossible, or not those of the partner or the camera description."""


class MeasurementError(PtcStreamError):
    """Two frames whose pixels cannot be compared."""

    disposition = Disposition.REJECT


class StorageUnavailable(PtcStreamError):
    """Time-out, stale mount or I/O error while reading: wait, blame no exposure."""

    disposition = Disposition.RETRY


class OffloadError(PtcStreamError):
    """A job did not come back from its worker, alone and twice (`ptc_stream.offload` tries again itself)."""

    disposition = Disposition.REJECT


class WorkerDied(OffloadError):
    """The process that held the job ended without an answer."""


class JobTimeout(OffloadError):
    """The job passed its deadline and its worker was ended."""


class TooManyRejects(PtcStreamError):
    """A stage rejected so many records in a row that the cause must lie elsewhere."""

    exit_code = 4


class BusError(PtcStreamError):
    """The log of records cannot do what was asked."""


class BusUnavailable(BusError):
    """The log cannot be reached for now."""

    disposition = Disposition.RETRY


class StoreInUse(BusError):
    """Another process owns this store."""

    exit_code = 3


class PartitionLost(BusError):
    """Another owner has taken this partition; nothing of ours was written."""

    disposition = Disposition.FORGET_PARTITION


class PositionLost(BusError):
    """Records that must still be read are no longer there."""


def disposition(error: BaseException) -> Disposition:
    """Tell what to do about `error`.

    Parameters
    ----------
    error
        Any exception. Those outside the tree are defects of ours: they stop the service.

    Returns
    -------
    Disposition
    """
    return error.disposition if isinstance(error, PtcStreamError) else Disposition.STOP
