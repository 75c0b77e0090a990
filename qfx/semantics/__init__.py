"""What each canonical operation computes, as plain Python over torch.

One function per operation of :mod:`qfx.vocab` whose torch counterpart does not already have the
canonical signature. Tensor operands come first and by position, attributes follow by keyword under
the names that torch uses.
"""
