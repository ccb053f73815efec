"""The journal: an arena's commits in files, which outlive the machine.

`Arena.open(name, journal=folder)` keeps one. `folder` knows what lies in a folder, `snapshots` copies of the state, `start` where
the state comes from, `attach` how an arena is opened with both, and `gate` who waits for the disk.
"""
