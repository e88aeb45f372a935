//! Whether to print in colour.

use std::env;
use std::io::{self, IsTerminal};

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// If standard output is a terminal that knows colours, and NO_COLOR (<https://no-color.org>) is not set.
    #[default]
    Auto,
    /// Also into a file or a pipe.
    Always,
    /// Not at all.
    Never,
}

impl Color {
    /// Whether standard output is to have colours.
    pub fn is_wanted(self) -> bool {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Self::Auto => {
                let is_dumb = env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
                io::stdout().is_terminal() && !is_dumb && !is_set("NO_COLOR")
            }
            Self::Always => true,
            Self::Never => false,
        }
    }
}
