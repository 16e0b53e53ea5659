"""The stage selector: its table, its recorded runs, its widget."""
