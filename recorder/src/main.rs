//! The command `recorder`, which Wireshark calls too.

use std::process::ExitCode;

use clap::Parser;
use recorder::cli::{self, Cli, extcap};

fn main() -> ExitCode {
    let command_line: Vec<_> = std::env::args_os().collect();
    if extcap::is_call(&command_line) {
        return extcap::run(&command_line);
    }
    cli::run(Cli::parse_from(command_line))
}
