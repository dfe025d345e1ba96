"""``python -m ptc_stream``."""

from ptc_stream.cli import main

main()
