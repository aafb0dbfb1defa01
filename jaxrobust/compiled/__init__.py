"""What compiled programs do and cost, on machines that are there or not."""
