//! Many clients, one after the other, each a process of its own that lives a few milliseconds.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::options::Options;
use crate::truth::write_line;

const SHORT_NS: u128 = 5_000_000;

/// Forks and executes the clients; each writes its line to the log. Prints how long they lived.
pub(crate) fn storm(options: &Options) {
    let own = std::env::current_exe().expect("this program has a path");
    let client = options.value("--client").map_or(own, Into::into);
    let to = options.address("--to").expect("--to is missing");
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let command_name = match options.required("--protocol") {
        "tcp" => "tcp-client",
        "udp" => "udp-client",
        other => panic!("--protocol {other}: not tcp or udp"),
    };
    let mut command = Command::new(client);
    command.args([command_name, &address, &port, "--log", options.required("--log")]);
    command.stdin(Stdio::null());

    let count = options.number("--count").unwrap_or(1000);
    let mut lives: Vec<u128> = (0..count).map(|_| one_life(&mut command)).collect();
    lives.sort_unstable();
    write_line(None, &report(&lives));
}

fn one_life(command: &mut Command) -> u128 {
    let start = Instant::now();
    let status = command.status().expect("cannot start the client");
    assert!(status.success(), "the client failed: {status}");
    start.elapsed().as_nanos()
}

fn report(sorted: &[u128]) -> String {
    let count = sorted.len();
    let median = sorted.get(count / 2).copied().unwrap_or(0);
    let longest = sorted.last().copied().unwrap_or(0);
    let short = sorted.partition_point(|life| *life < SHORT_NS);
    format!(
        "{{\"clients\":{count},\"under_5_ms\":{short},\"median_ns\":{median},\"longest_ns\":{longest}}}\n"
    )
}
