"""The report: what was measured, what it shows, and the paper's numbers beside ours."""
