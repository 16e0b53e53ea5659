"""The stage selector: its choices, its planner in JavaScript, its recorded runs, its widget."""
