"""A model of a language's text: how probable a sentence is."""


class LanguageModel:
    """Scores sentences. It is built from lines of text."""

    def score(self, text: str) -> float:
        """The log-probability of a normalised sentence, in nats."""
        raise NotImplementedError
