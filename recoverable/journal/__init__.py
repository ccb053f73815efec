"""The journal: an arena's commits in files, which outlive the machine.

`Arena.open(name, journal=folder)` keeps one. `folder` knows what lies in a folder, `snapshots` copies of the state, `first` how the
first one is taken, `start` where the state comes from, `attach` how an arena is opened with both, `gate` who waits for the disk,
`compact` how what is not needed any more is dropped, and `keeper` when.
"""
