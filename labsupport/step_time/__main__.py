"""python -m labsupport.step_time: how long a step takes, and what a run costs, as modelled."""

import sys

from labsupport.step_time.report import main

sys.exit(main())
