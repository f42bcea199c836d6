"""The HTTP front: the OpenAI protocol, what memstream adds to it, documents, metrics, and a page to look at."""
