"""Plan what a job will do and need, from headers and shapes alone."""
