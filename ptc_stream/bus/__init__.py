"""The partitioned log that carries the records: its words, and its implementations."""
