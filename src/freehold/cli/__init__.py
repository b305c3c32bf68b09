"""The command line: one file per command. stdout is the result, stderr the rest."""
