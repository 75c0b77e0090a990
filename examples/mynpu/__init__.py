"""mynpu: a simulated accelerator as a backend of one's own; docs/backends.md builds it."""
