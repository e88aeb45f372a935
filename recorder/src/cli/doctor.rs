//! `recorder doctor`: what works on this machine, what does not, why, and what to do about it.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::attribution::linux::ebpf::{DEFAULT_EVENT_BYTES, KernelSide, Need, Report, State, Wanted};
use crate::attribution::linux::procfs::{Hidden, ScanError, Scanner};
use crate::model::Found;
use crate::source::{self, Capture, CaptureOptions};

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

/// Tries everything that a recording needs, and tells. Exit code 0 if packets can be recorded with their owners, 1 if
/// only with some of them or none, 2 if not at all.
pub fn run(args: &DoctorArgs, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut findings = vec![capture()];
    let can_record = findings.iter().all(|finding| finding.state == "ok");
    let before = findings.len();
    hooks(&mut findings);
    let can_attribute = findings[before..].iter().all(|finding| finding.state != "missing");
    let lookup = lookup();
    let can_look_up = lookup.state != "missing";
    findings.push(lookup);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &findings)?;
        writeln!(out)?;
    } else {
        findings.iter().try_for_each(|finding| write_finding(finding, out))?;
        writeln!(out, "\n{}", verdict(can_record, can_attribute, can_look_up))?;
    }
    Ok(match (can_record, can_attribute) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(1),
        (false, _) => ExitCode::from(2),
    })
}

const fn verdict(can_record: bool, can_attribute: bool, can_look_up: bool) -> &'static str {
    match (can_record, can_attribute, can_look_up) {
        (true, true, _) => "recording works here, with owners",
        (true, false, true) => {
            "recording works here, with the owners of long-lived sockets only (--attribution procfs)"
        }
        (true, false, false) => "recording works here, but without owners",
        (false, ..) => "recording does not work here",
    }
}

fn lookup() -> Finding {
    let mut scanner = Scanner::default();
    let (state, detail, remedy) = match scanner.scan(Found::Procfs) {
        Ok(scan) => {
            let hidden = scanner.hidden();
            let state = if hidden == Hidden::default() { "ok" } else { "partly" };
            let mut detail = vec![format!("{} sockets seen", scan.sockets.len())];
            detail.extend(hidden.in_words());
            (state, detail.join("; "), None)
        }
        Err(error) => ("missing", error.to_string(), Some(ScanError::REMEDY.to_owned())),
    };
    Finding {
        what: "sock_diag and /proc".into(),
        purpose: "to know the sockets from before the start, and all of them where eBPF is refused".into(),
        state,
        detail,
        remedy,
    }
}

fn capture() -> Finding {
    let small = CaptureOptions { buffer_bytes: 1 << 20, ..CaptureOptions::default() };
    let result = Capture::open(&small);
    let (state, detail, remedy) = match result {
        Ok(_) => ("ok", "a ring could be opened on all interfaces".to_owned(), None),
        Err(error) => ("missing", error.to_string(), source::Error::remedy(&error)),
    };
    Finding {
        what: "packet capture".into(),
        purpose: "AF_PACKET, to see packets at all".into(),
        state,
        detail,
        remedy,
    }
}

fn hooks(findings: &mut Vec<Finding>) {
    match KernelSide::attach_what_works(Wanted {
        descendants: true,
        arguments: false,
        event_bytes: DEFAULT_EVENT_BYTES,
    }) {
        Ok(kernel_side) => findings.extend(kernel_side.reports().iter().map(hook)),
        Err(error) => findings.push(Finding {
            what: "eBPF".into(),
            purpose: "to learn which process uses which socket".into(),
            state: "missing",
            remedy: Some(error.remedy().into()),
            detail: error.to_string(),
        }),
    }
}

fn hook(report: &Report) -> Finding {
    let Report { hook, state } = report;
    let (word, remedy) = match (state, hook.need) {
        (State::Active, _) => ("ok", None),
        (State::NotNeeded(_), _) => ("not needed", None),
        (State::Refused(_), Need::Base) => {
            ("missing", Some("run with sudo, or give the binary CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"))
        }
        (State::Refused(_), _) => {
            ("partly", Some("nothing to do: the other hooks cover most of what it tells"))
        }
    };
    Finding {
        what: hook.hook.to_owned(),
        purpose: hook.tells.to_owned(),
        state: word,
        detail: state.to_string(),
        remedy: remedy.map(Into::into),
    }
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
