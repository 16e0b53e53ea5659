"""python -m labsupport.memory: the planner's answers as a table."""

import sys

from labsupport.memory.report import main

sys.exit(main())
