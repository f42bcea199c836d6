"""`make demo`: the feed (`factbook`), the embedded broker, what is asked when (`programme`), and how it is shown (`show`)."""
