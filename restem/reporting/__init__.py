"""What `restem report` is made of: the files of runs, the figures, the page."""
