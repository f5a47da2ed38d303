"""`jaxinit demo`: why this library exists, on real weights and real images.

Needs the extra `demo`. The parts: labelled pictures (`_pictures`, `_builtin`,
`_folder`, `_medical`), networks (`_network`, `_convolutions`), what is measured
(`_start`, `_deep`, `_proof`, `_experiment`, all of it in `_run`), and what is shown
(`_figures`, `_page`, `_summary`).
"""
