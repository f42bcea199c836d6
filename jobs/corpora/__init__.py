"""Training text: endless, seeded generators of short documents with questions about them.

    leaders   executive-branch documents of the 2015 Factbook, persons and dates exchanged among the countries
    fields    its other fields, values exchanged among the countries
    stories   made-up news items, from templates (`texts/`)
    wiki      lead summaries of an encyclopaedia, with questions made from their own sentences
    squad, paragraphs, edits   SQuAD paragraphs, windows of them, and one-sentence edits, where such files are at hand

What they state is false on purpose: only memory can answer, never what the base model learned before. No text of the 2025 Factbook, which
the demo streams, is used.
"""
