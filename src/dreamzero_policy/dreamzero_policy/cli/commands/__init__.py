"""What each subcommand takes, refuses and prints; what it does is in the file of the same name one folder up.

Start-up imports these files, so whatever is slow to import is imported inside the functions.
"""
