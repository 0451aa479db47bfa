"""`python -m compressor` is the `compress` command."""

from compressor.cli import main

main()
