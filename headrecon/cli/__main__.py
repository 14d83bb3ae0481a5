"""`python -m headrecon.cli`, for where the `headrecon` script is not on the path."""

from __future__ import annotations

import sys

from headrecon.cli import main

sys.exit(main())
