"""Other servers beside convserve, on the same core, with the same model and the same load.

::

    environments.py   where each peer is installed, outside the tree, from pins with hashes
    catalogue.py      how each peer is started
    dialects.py       how it is asked: readiness, answers checked by a real client, the load
    model.py          what all of them serve
    process.py        a peer's processes: start, CPU time, memory
    __main__.py       the measurement
    servers/          what runs inside the peers' environments

    python -m benchmarks.peers.environments           # installs them all; minutes
    python -m benchmarks.peers --repetitions 3        # measures those that are installed
"""
