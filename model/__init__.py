"""MemoryLLM: self-updates, the latent memory pool, and answers read through it. Knows torch and transformers; no Ray, no Kafka."""
