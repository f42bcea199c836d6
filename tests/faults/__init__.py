"""The fault harness: seeded schedules of faults on real parts, and a checker that rebuilds the memory by one plain read of the topic.

    schedule (seed) -> steps -> deployment under fire -> drained -> checks <- rebuild <- one plain read of the topic
                          |             |
                   broker, store,   processes of the stream (nursery, node), or jobs.run on Ray (cluster)
                   proxy, disk

`make test-fault SEEDS=200` runs it; `python -m tests.faults --help` says more.
"""
