"""What `restem plan` knows of chips, compiled programs and the time they take."""
