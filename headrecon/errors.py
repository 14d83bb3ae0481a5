"""What headrecon raises. Every message names the thing, what was expected, what was found and what to do."""

from __future__ import annotations


class HeadReconError(Exception):
    """Base of every error that is the user's to mend; the command line prints it as one sentence and exits with 2."""


class InputError(HeadReconError):
    """A file, option or value from the user cannot be used as it is."""


class NoFaceFound(InputError):
    """A picture holds no face, or none large enough to measure."""


class AssetError(HeadReconError):
    """A model, network or table is missing, broken, or of the wrong kind."""


class NetworkUnavailable(AssetError):
    """Something must be downloaded and the download failed; the message says what to fetch and where to put it."""


class ShapeError(HeadReconError, ValueError):
    """An array has the wrong shape or type."""


class NativeMissing(HeadReconError):
    """A back end was asked for that is not built or not installed."""
