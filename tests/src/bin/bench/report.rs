//! The tables, and the machine they were made on.

use std::fmt::Write;

use recorder_tests::document;

use crate::Plan;
use crate::capture::{self, Turn};
use crate::cost;
use crate::tool::Tool;

/// Everything, as markdown.
pub(crate) fn text(plan: &Plan, loads: &[capture::Measured], costs: &[cost::Measured]) -> String {
    let mut text = machine(plan);
    text.push_str("\n### Packets lost, and CPU per packet\n\n");
    text.push_str("| load | recorder | sent | lost | told | CPU per packet (spread) | against tcpdump |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---:|\n");
    for load in loads {
        plan.tools.iter().for_each(|tool| text.push_str(&load_row(load, *tool)));
    }
    text.push_str("\n### What it costs the recorded program\n\n");
    text.push_str("| loop | while | ns per iteration (spread) | slower by |\n|---|---|---:|---:|\n");
    for cost in costs {
        text.push_str(&cost_rows(cost));
    }
    text.push_str(EXPLANATION);
    text
}

const EXPLANATION: &str = "
Packets: medians of the rounds; loops: lower quartiles of the turns, five in each round; in brackets the lowest and the
highest. Sent: packets that the interfaces counted on both sides; lost: sent, and not in the file; told: what the recorder itself
says was dropped. CPU: user and system time of the recorder, all threads and children, divided by the packets in its file; against
tcpdump: the median of the ratios within each round. The senders run on core 0, the recorder on core 1; rings of 64 MiB; files in
memory.
";

fn load_row(load: &capture::Measured, tool: Tool) -> String {
    let turns: Vec<&Turn> = load.rounds.iter().flatten().filter(|turn| turn.tool == tool).collect();
    let all = |figure: fn(&Turn) -> f64| turns.iter().map(|turn| figure(turn)).collect::<Vec<f64>>();
    let sent: u64 = turns.iter().map(|turn| turn.sent).sum();
    let lost: u64 = turns.iter().map(|turn| turn.sent.saturating_sub(turn.written)).sum();
    let told: u64 = turns.iter().map(|turn| turn.told_dropped).sum();
    let percent = 100.0 * lost as f64 / sent.max(1) as f64;
    let ns = spread(all(Turn::ns_per_packet));
    let ratio = median(ratios(load, tool));
    format!("| {} | {} | {sent} | {percent:.2} % | {told} | {ns} ns | {ratio:.2} |\n", load.load, tool.name())
}

/// CPU per packet against tcpdump's, by round.
fn ratios(load: &capture::Measured, tool: Tool) -> Vec<f64> {
    let of = |round: &[Turn], tool| round.iter().find(|turn| turn.tool == tool).map(Turn::ns_per_packet);
    let ratio = |round: &Vec<Turn>| Some(of(round, tool)? / of(round, Tool::Tcpdump)?);
    load.rounds.iter().filter_map(ratio).collect()
}

fn cost_rows(cost: &cost::Measured) -> String {
    let alone = cost.modes.first().map_or(1.0, |(_, figures)| lower_quartile(figures.clone()));
    let mut text = String::new();
    for (mode, figures) in &cost.modes {
        let quartile = lower_quartile(figures.clone());
        let slower = 100.0 * (quartile / alone - 1.0);
        let (lowest, highest) = extremes(figures);
        let ns = format!("{quartile:.0} ({lowest:.0}-{highest:.0})");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} | {ns} | {slower:+.1} % |", cost.name, mode.name);
    }
    text
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

/// What a figure is when nothing disturbs it: a quarter of the turns are quicker.
fn lower_quartile(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 4).copied().unwrap_or(f64::NAN)
}

fn extremes(figures: &[f64]) -> (f64, f64) {
    let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    (lowest, figures.iter().copied().fold(0.0, f64::max))
}

pub(crate) fn spread(figures: Vec<f64>) -> String {
    let (lowest, highest) = extremes(&figures);
    format!("{:.0} ({lowest:.0}-{highest:.0})", median(figures))
}

fn machine(plan: &Plan) -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (circumstances, rounds) = (document::circumstances(), plan.rounds);
    let tools = ["tcpdump", "dumpcap"].map(|tool| document::first_line(tool, &["--version"])).join("; ");
    let profile =
        if cfg!(debug_assertions) { "; **debug build: the recorder's figures mean nothing**" } else { "" };
    format!(
        "Made by `make bench` (`bench {}`), {rounds} rounds, {circumstances}; {tools}{profile}.\n",
        arguments.join(" ")
    )
}
