"""Manifests: how a service manager starts `freehold serve`.

    Settings ──carried.carry──► Carried ──systemd │ compose │ kubernetes──► File, File…

Pure: resolved settings in, the text of files out. `cli.deploy` reads the policy and writes.
"""
