//! The log against a model, and the fine print by examples.
