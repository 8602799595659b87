"""The methods in other trainers, one thin adapter each, imported by name: `dgpo.integrations.trl`, `.verl`, ...

Each needs its trainer installed; nothing in dgpo imports them.
"""
