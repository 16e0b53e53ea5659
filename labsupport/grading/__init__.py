"""Grade submitted labs: run each one in processes of its own, judge its answers, write a row for each."""
