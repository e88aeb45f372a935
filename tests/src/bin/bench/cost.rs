//! What recording costs the programs that are recorded: loops that do nothing but what the hooks watch, with and
//! without a recorder.

use recorder_tests::lab::say;
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::must;
use tempfile::TempDir;

use crate::Plan;
use crate::tool::{SENDERS_CORE, Tool, pinned, traffic};

/// Who records while the loop runs, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    recorder: Option<(Tool, &'static str)>,
}

const MODES: [Mode; 4] = [
    Mode { name: "nobody records", recorder: None },
    Mode { name: "tcpdump records it", recorder: Some((Tool::Tcpdump, "lo")) },
    Mode { name: "recorder records it", recorder: Some((Tool::Recorder, "lo")) },
    // The hooks run, and the loop's packets are not captured: what the hooks alone cost.
    Mode { name: "recorder records another interface", recorder: Some((Tool::Recorder, "eth1")) },
];

/// Short turns, many of them: a disturbance of the machine spoils some, and not the comparison.
const TURNS_PER_ROUND: usize = 5;

/// One loop: nanoseconds per iteration, by mode, one figure for each turn.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) modes: Vec<(Mode, Vec<f64>)>,
}

/// Measures all loops.
pub(crate) fn measure(plan: &Plan) -> Vec<Measured> {
    let small = if plan.quick { 10 } else { 1 };
    let connect_loop = ("connect + accept + close", "connect-loop", 8_000 / small);
    let udp_loop = ("UDP send + receive, 64 bytes", "udp-loop", 80_000 / small);
    let send_loop = ("UDP send, 64 bytes", "udp-send-loop", 100_000 / small);
    [connect_loop, udp_loop, send_loop]
        .map(|(name, command, iterations)| measure_loop(plan, name, command, iterations))
        .into()
}

fn measure_loop(plan: &Plan, name: &'static str, command: &str, iterations: u64) -> Measured {
    let (work, other) = (Namespace::new("work"), Namespace::new("other"));
    connect(&work, &other, 1);
    let has_tool = |mode: &Mode| mode.recorder.is_none_or(|(tool, _)| plan.tools.contains(&tool));
    let mut modes: Vec<(Mode, Vec<f64>)> =
        MODES.into_iter().filter(has_tool).map(|mode| (mode, Vec::new())).collect();
    for turn in 0..plan.rounds * TURNS_PER_ROUND {
        let count = modes.len();
        for position in 0..count {
            let (mode, figures) = &mut modes[(position + turn) % count];
            let ns = one_turn(&work, *mode, command, iterations);
            say(&format!("{name}: {}: {ns:.0} ns", mode.name));
            figures.push(ns);
        }
    }
    Measured { name, modes }
}

fn one_turn(work: &Namespace, mode: Mode, command: &str, iterations: u64) -> f64 {
    let folder = TempDir::with_prefix("recorder-bench-").expect("cannot make a temporary folder");
    let file = folder.path().join("capture");
    let file = file.to_str().expect("our paths are UTF-8");
    let recorder = mode.recorder.map(|(tool, interface)| (tool, tool.start(work, interface, file)));
    let mut traffic = pinned(work, SENDERS_CORE, &traffic());
    let output = must(traffic.args([command, "--iterations", &iterations.to_string()]));
    if let Some((tool, running)) = recorder {
        tool.stop(running);
    }
    let line: serde_json::Value = serde_json::from_str(&output.stdout).expect("the loop prints JSON");
    line["ns_per_iteration"].as_f64().expect("the loop prints ns_per_iteration")
}
