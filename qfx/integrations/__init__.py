"""Other frameworks' hooks; each module needs its framework, which qfx does not install."""
