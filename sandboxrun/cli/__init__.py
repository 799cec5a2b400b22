"""The command line: one thin command a file. The only room that imports click; it decides nothing itself."""
