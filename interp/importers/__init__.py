"""Importers of foreign checkpoints: they become a trajectory that every measure and the report accept.

Files are read as plain data (`files`), the layout of their weights is recognised and undone (`layouts`), operation,
split and steps are determined (`reading`, `splits`), the stored losses are computed again as a proof (`proof`), and a
normal run folder is written (`importing`).
"""

from interp.importers.importing import ImportPlan, import_checkpoints, plan_import
from interp.importers.layouts import LAYOUTS

__all__ = ["LAYOUTS", "ImportPlan", "import_checkpoints", "plan_import"]
