"""The label convention shared by data, losses and metrics."""

IGNORE_LABEL = 255
"""Train id of a pixel that counts neither in a loss nor in a metric."""
