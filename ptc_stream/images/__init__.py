"""FITS in, arrays out: which pixels an amplifier has, and where its zero is.

::

    cards       header bytes -> values by keyword
    reading     files: whole or not, gzip, faults of the storage told from faults of the file
    header_map  the user's own keywords
    headers     one primary header -> ExposureHeader, by the rules of the field or the user's map
    sections    "[1:2048,1:512]" <-> boxes of array indices
    camera      TOML description of what headers do not say
    geometry    headers and description -> the amplifiers of a frame, in the order of read-out
    overscan    zero level and read noise from the overscan of one amplifier
    corrections mask, linearity and crosstalk files
    raw         one amplifier of a file, above its overscan
    calibration bias, dark and the rest of what the configuration names, per detector
    reduction   the way from a path to `AmplifierFrame`, one amplifier at a time

Arrays are ``[y, x]``; x runs along the serial register, (0, 0) is the pixel that is read out first.
Sections in headers and descriptions are FITS sections: 1-based, inclusive, x first.
"""
