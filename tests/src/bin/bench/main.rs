//! What recording costs, measured beside tcpdump and dumpcap in the same run, and printed as markdown tables.
//!
//! Figures move from run to run and from machine to machine, so nothing here asserts on a time; what is compared
//! alternates within one run.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

mod capture;
mod compression;
mod cost;
mod count;
mod lookup;
mod reading;
mod replay;
mod report;
mod tool;

use tool::Tool;

const USAGE: &str = "usage: bench [--quick] [--rounds N] [--write FILE] [--without-recorder]
       bench lookup [--quick] [--write FILE]    what one scan of all sockets and their processes costs
       bench compression [--quick] [--write FILE]    what compression saves and costs, by level
       bench replay [--quick] [--write FILE]    how fast recordings are sent, and how well in time, beside tcpreplay
       bench reading [--quick] [--write FILE]    how fast a file of a gigabyte is printed, beside tcpdump
  --quick              small counts, two rounds: shows that the benchmark runs
  --rounds N           rounds of each comparison (5)
  --write FILE         also replace the generated part of FILE
  --without-recorder   only the others, to try the benchmark itself";

/// What is measured, and how much of it.
struct Plan {
    quick: bool,
    rounds: usize,
    write: Option<String>,
    tools: Vec<Tool>,
}

fn main() {
    let rest = || std::env::args().skip(2).collect::<Vec<String>>();
    match std::env::args().nth(1).as_deref() {
        Some("lookup") => return lookup::main(rest()),
        Some("compression") => return compression::main(&rest()),
        Some("replay") => return replay::main(&rest()),
        Some("reading") => return reading::main(&rest()),
        _ => {}
    }
    let Some(plan) = plan(std::env::args().skip(1).collect()) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let needed = ["ip", "trafgen", "tcpdump", "dumpcap", "iperf3", "taskset"];
    if !recorder_tests::lab::machine_allows(&needed) {
        return;
    }
    let loads = capture::measure(&plan);
    let costs = cost::measure(&plan);
    let text = report::text(&plan, &loads, &costs);
    println!("{text}");
    if let Some(path) = &plan.write {
        recorder_tests::document::replace(path, "make bench", &text);
    }
}

fn plan(arguments: Vec<String>) -> Option<Plan> {
    let mut plan = Plan {
        quick: false,
        rounds: 5,
        write: None,
        tools: vec![Tool::Tcpdump, Tool::Dumpcap, Tool::Recorder, Tool::Unrestricted],
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (plan.quick, plan.rounds) = (true, 2),
            "--rounds" => plan.rounds = arguments.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
            "--write" => plan.write = Some(arguments.next()?),
            "--without-recorder" => {
                plan.tools.retain(|tool| !matches!(tool, Tool::Recorder | Tool::Unrestricted))
            }
            _ => return None,
        }
    }
    Some(plan)
}
