"""One file a paper, `<room>/<slug>.py`: what the paper claims in our words, and `claim(*, seed, scale)` that measures it here."""
