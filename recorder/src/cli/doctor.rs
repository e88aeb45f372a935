//! `recorder doctor`: what works on this machine, what does not, why, and what to do about it.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::attribution::linux::ebpf::{
    DEFAULT_EVENT_BYTES, EbpfError, KernelSide, Need, Report, State, Wanted,
};
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
/// only without, 2 if not at all.
pub fn run(args: &DoctorArgs, out: &mut dyn Write) -> io::Result<ExitCode> {
    let mut findings = vec![capture()];
    let can_record = findings.iter().all(|finding| finding.state == "ok");
    let before = findings.len();
    hooks(&mut findings);
    let can_attribute = findings[before..].iter().all(|finding| finding.state != "missing");
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &findings)?;
        writeln!(out)?;
    } else {
        findings.iter().try_for_each(|finding| write_finding(finding, out))?;
        writeln!(out, "\n{}", verdict(can_record, can_attribute))?;
    }
    Ok(match (can_record, can_attribute) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(1),
        (false, _) => ExitCode::from(2),
    })
}

const fn verdict(can_record: bool, can_attribute: bool) -> &'static str {
    match (can_record, can_attribute) {
        (true, true) => "recording works here, with owners",
        (true, false) => "recording works here, but without owners",
        (false, _) => "recording does not work here",
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
            remedy: Some(remedy_without_ebpf(&error).into()),
            detail: error.to_string(),
        }),
    }
}

const fn remedy_without_ebpf(error: &EbpfError) -> &'static str {
    match error {
        EbpfError::Offsets(_) => {
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as all large distributions build it"
        }
        EbpfError::Cgroup(_) => {
            "mount the cgroup2 tree, or run as root so that it can be opened without mounting"
        }
        EbpfError::Load(_) | EbpfError::Base { .. } => {
            "run with sudo, or give the binary CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
        }
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
