"""Answers that fit a grammar: which tokens may come next.

llguidance compiles JSON schemas, regular expressions and Lark grammars and follows
them byte by byte; what is here gives it a vocabulary, limits and a beginning
(`Constraint.after`), and words its refusals. Only ever loaded inside children: the
texts are strangers', and the text child tries them under limits of time and memory first,
because some make the compiler take what memory there is.

    source      a constraint in llguidance's own form
    tokens      the vocabulary as llguidance wants it
    follower    one answer inside its grammar
    free_part   one answer before it
    compiler    all of them together: what others use
    refusals    why something cannot be used
"""

from freehold.text.constraint.compiler import ConstraintCompiler, Matcher
from freehold.text.constraint.refusals import FIELD
from freehold.text.constraint.tokens import Mask

__all__ = ["FIELD", "ConstraintCompiler", "Mask", "Matcher"]
