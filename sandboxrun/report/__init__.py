"""Every form in which results are shown: text, JSON, Markdown, annotations; all from the same data."""
