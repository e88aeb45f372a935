//! `recorder doctor`: what works on this machine, what does not, why, and what to do about it.

#[cfg(target_os = "linux")]
#[path = "doctor/linux.rs"]
mod system;
#[cfg(target_os = "macos")]
#[path = "doctor/macos.rs"]
mod system;

use std::io::{self, Write};
use std::process::ExitCode;

use super::text;

/// The arguments of `recorder doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON: one array of objects
    #[arg(long)]
    pub json: bool,
}

/// One thing that was tried.
#[derive(Debug, serde::Serialize)]
struct Finding {
    /// What was tried.
    what: String,
    /// What it is for.
    purpose: String,
    /// `ok`, `missing`, `not needed` or `partly`.
    state: &'static str,
    /// What was seen.
    detail: String,
    /// What to do about it.
    remedy: Option<String>,
}

/// All that was found.
struct Examination {
    findings: Vec<Finding>,
    verdict: &'static str,
    can_record: bool,
    can_attribute: bool,
}

/// Tries everything that a recording needs, and tells. Exit code 0 if packets can be recorded with their owners, 1 if
/// only with some of them or none, 2 if not at all.
pub fn run(args: &DoctorArgs, out: &mut dyn Write) -> io::Result<ExitCode> {
    let Examination { findings, verdict, can_record, can_attribute } = system::examine();
    if args.json {
        writeln!(out, "{}", text::json(serde_json::to_string_pretty(&findings)?))?;
    } else {
        findings.iter().try_for_each(|finding| write_finding(finding, out))?;
        writeln!(out, "\n{verdict}")?;
    }
    Ok(match (can_record, can_attribute) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(1),
        (false, _) => ExitCode::from(2),
    })
}

fn write_finding(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let Finding { what, purpose, state, detail, remedy } = finding;
    writeln!(out, "{state:10}  {what:28}  {purpose}")?;
    if *state != "ok" {
        writeln!(out, "{:10}  {detail}", "")?;
    }
    if let Some(remedy) = remedy {
        writeln!(out, "{:10}  {remedy}", "")?;
    }
    Ok(())
}
