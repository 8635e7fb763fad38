//! The command line: one file per command.

#![forbid(unsafe_code)]

pub mod failure;
pub mod publish;
pub mod sub;
mod text;
