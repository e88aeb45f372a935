//! The command `recorder`.

use std::process::ExitCode;

use clap::Parser;
use recorder::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
