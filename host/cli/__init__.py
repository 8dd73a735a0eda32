"""The command line: commands read their options and print; the work is done in the packages below."""
