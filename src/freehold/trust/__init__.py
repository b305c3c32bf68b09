"""May it be used, is it what it says, and does anything leave this machine."""
