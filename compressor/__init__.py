"""Model compression for deployment: distil with boundary supporting samples, prove, export, measure."""

__version__ = "0.1.0"
