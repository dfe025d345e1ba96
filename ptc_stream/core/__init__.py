"""Pure state machines: records in, effects out. No I/O, no clock, no chance."""
