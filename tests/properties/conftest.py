"""How far properties are searched: by a few examples that never change, or with PROPERTIES=deep by very many new ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, configuration, settings

# Else it would keep what it knows of characters and of our constants in the folder that the tests are started in.
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "vicreg-sweeps-hypothesis")
_ALWAYS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("fast", derandomize=True, database=None, max_examples=10, stateful_step_count=12, **_ALWAYS)
settings.register_profile("deep", max_examples=int(os.environ.get("PROPERTIES_EXAMPLES", "1500")), print_blob=True, **_ALWAYS)
settings.load_profile(os.environ.get("PROPERTIES", "fast"))
