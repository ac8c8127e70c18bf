"""What a job runs, and what is read from its output."""
