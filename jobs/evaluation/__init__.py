"""How a model is examined: who answers (`students`, `rag`), what it comes to (`totals`), and how that looks (`pictures`)."""
