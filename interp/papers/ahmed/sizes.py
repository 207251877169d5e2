"""What the figures of Ahmed have in common: thresholds, and what is measured of every run."""

__all__ = ["DELAYED", "HALF_WAY", "HARMLESS", "MORE", "PAPER", "POOR", "STORED", "STORED_HOLD"]

PAPER = "Grokking in neural networks and the role of regularization (Ahmed, AIMS essay, 2024)"
HALF_WAY = 0.5
"""Accuracy from which a rise is counted."""
STORED = ("weight_norm", "test_accuracy_unmirrored")
"""What is measured at the stored steps."""
STORED_HOLD = 2
"""Further stored steps for which a level must be held: they are half as dense as evaluations, or less."""
DELAYED, MORE, POOR, HARMLESS = 2.0, 1.1, 0.5, -0.05
"""Least delay that is grokking; least quotient that is more; accuracy that is poor; loss of accuracy that is none."""
