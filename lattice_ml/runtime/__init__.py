"""The process that a job runs in: devices, memory, signals, arguments, files, progress."""
