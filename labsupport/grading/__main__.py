"""python -m labsupport.grading: grade a folder of submitted labs."""

import sys

from labsupport.exercises.verify import stop_workers
from labsupport.grading.grade import main
from labsupport.launch.processes import adopt_orphans, end_family

adopt_orphans()
status = main()
stop_workers()
end_family()  # what an answer started and detached from the process that judged it
sys.exit(status)
