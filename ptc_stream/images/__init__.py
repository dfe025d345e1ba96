"""FITS in, plain arrays out: headers, amplifier geometry, overscan, calibration."""
