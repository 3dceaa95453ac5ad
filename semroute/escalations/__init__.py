"""Past outcomes: what happened before decides what happens next.

outcome.py     what is stored, and events about it; `replay` says which outcomes count
store.py       the protocol of a store, and `open_store`
sqlite.py      the embedded default
postgres.py    one log for many router replicas (extra `postgres`)
trend.py       quality over all prompts, from many graded ones
estimate.py    expected quality of each model on one prompt, with its support
memory.py      a store and an estimator that follows it, for the router
importing.py   graded prompts from JSON Lines

store -> records -> replay -> outcomes -> Estimator -> quality and support of each model
"""
