"""The work and the cost of compiled programs, also for machines that are not present."""
