"""Verbs that share: a proof that a saved model works, and its way to the Hub."""

from qtoolkit import publishing
from qtoolkit.measure import explained
from qtoolkit.tokens import verb

_ADVICE = "free some: the model is loaded once more, in a process of its own"

verify = verb(explained("verifying", _ADVICE)(publishing.verify))
publish = verb(explained("publishing", _ADVICE)(publishing.publish))
