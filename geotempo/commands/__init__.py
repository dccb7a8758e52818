"""One thin file per command; everything heavy is imported inside the command function."""
