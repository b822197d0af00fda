"""The load tester: open and closed loops, latency from the intended start, answers checked, the client watched.

::

    cli/loadtest --> campaign --> fleet ==spawn==> client process: pacing --> loop --> http2 --> server
                        |           ^                                  answers <--'
                     report <---- record (histograms, counts)
"""
