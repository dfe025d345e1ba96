"""Photon Transfer Curves while the camera run is still going on."""

__version__ = "0.1.0"
