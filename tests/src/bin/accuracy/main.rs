//! How often the owners are right: every scenario is played by programs that log the truth about themselves, recorded by the
//! recorder as a user runs it, and judged packet by packet from the file. One table row for each.
//!
//! Exit code 1 if a packet has a wrong name, or a scenario is not at its expectation: every packet right, or without an
//! owner where docs/LIMITS.md says why.
#![expect(clippy::expect_used, reason = "what cannot be set up cannot be judged")]
#![expect(clippy::panic, reason = "the same")]

mod plan;
mod report;
mod rustnet;
mod scenario;
mod scenes;
mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::{Mode, Plan};
use recorder_tests::lab::{machine_allows, say};
use scenario::{Row, Scenario};

fn main() {
    let Some(plan) = Plan::from_arguments(std::env::args().skip(1).collect()) else {
        eprintln!("{}", plan::USAGE);
        std::process::exit(2);
    };
    let scenarios: Vec<&Scenario> =
        scenes::ALL.iter().copied().flatten().filter(|scenario| plan.wants(scenario.name)).collect();
    if plan.list {
        scenarios.iter().for_each(|scenario| println!("{:26} {}", scenario.name, scenario.what));
        return;
    }
    if scenarios.is_empty() {
        eprintln!("accuracy: there is no such scenario; --list tells which there are");
        std::process::exit(2);
    }
    if !machine_allows(&["ip", "tshark", "nft", "unshare", "bpftool"]) {
        return;
    }
    let rows: Vec<Vec<Row>> = scenarios.iter().map(|scenario| play(scenario, &plan)).collect();
    let compared = plan.rustnet.as_ref().map(|program| rustnet::compare(&plan, program));
    let text = report::text(&plan, &rows, compared.as_deref());
    println!("{text}");
    if let Some(path) = &plan.write {
        report::write(path, &text);
    }
    let failed: Vec<&Row> = rows.iter().flatten().filter(|row| !row.failures.is_empty()).collect();
    if !failed.is_empty() {
        // Last, and whole: of a long log the end is what is read.
        failed.iter().for_each(|row| println!("{row}"));
        println!("{} scenarios are not as expected", failed.len());
        std::process::exit(1);
    }
}

/// How often a scenario is played at most until no owner is missing.
const TRIES: usize = 3;

/// Plays a scenario in each mode. With small counts, in CI, it is played again where owners were missing: a machine that
/// does other things at the same time, or is not given its processors, makes events late. All tries are told; a wrong name
/// counts at once.
fn play(scenario: &Scenario, plan: &Plan) -> Vec<Row> {
    let tries = if plan.quick { TRIES } else { 1 };
    let play_until_complete = |mode: &Mode| {
        let mut row = play_in_mode(scenario, plan, *mode);
        for _ in 1..tries {
            if row.failures.is_empty() || row.wrong > 0 {
                break;
            }
            say(&format!("{}: once more", scenario.name));
            row = play_in_mode(scenario, plan, *mode);
        }
        row
    };
    plan.modes.iter().map(play_until_complete).collect()
}

fn play_in_mode(scenario: &Scenario, plan: &Plan, mode: Mode) -> Row {
    let plan = plan.in_mode(mode);
    // A scenario that fails must not keep the others from being judged. Where in the harness it failed is of no interest.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let played = catch_unwind(AssertUnwindSafe(|| (scenario.play)(&plan)));
    std::panic::set_hook(hook);
    let row = match played {
        Ok(take) => Row::new(scenario, mode, take),
        Err(panic) => Row::not_played(scenario, mode, &panic),
    };
    say(&row.to_string());
    row
}
