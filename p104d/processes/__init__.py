"""A job's processes: shims that outlive the daemon, and how they are started, found and ended."""
