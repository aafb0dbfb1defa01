"""Devices and processes: steps mapped over a mesh, agreement between processes, and stop requests."""
