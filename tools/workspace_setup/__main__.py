"""Entry point of tools/setup."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workspace_setup.steps import main

sys.exit(main())
