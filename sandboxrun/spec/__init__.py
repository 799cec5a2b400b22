"""What a sandbox is: every option as a row, what a profile declares, what an engine shows. Pure."""
