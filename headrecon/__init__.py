"""headrecon: photos and video of a person to a metric, rigged head. See docs/architecture.md."""

__version__ = "0.1.0"
