"""Speed as measured (`benchmark.py`), and as compiled for machines that are not there (`preflight.py`)."""
