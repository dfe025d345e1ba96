"""Turns results into what people read: tables, files, plots."""
