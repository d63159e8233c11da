"""What a config comes to: checks, keys (what scores depend on), start terms, full trainings."""
