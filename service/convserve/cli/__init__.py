"""The commands of `convserve`, one module each: `add_parser` describes it, `run` does it.

Modules import at their top only what the base install has and what loads fast; the rest inside `run`.
"""
