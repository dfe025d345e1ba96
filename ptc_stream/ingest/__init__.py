"""Turns whatever announces an exposure into ExposureArrived records."""
