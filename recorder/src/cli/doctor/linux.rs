//! What a recording needs on Linux: a packet ring, the hooks, and sock_diag with /proc.

use super::{Examination, Finding};
use crate::attribution::linux::ebpf::{DEFAULT_EVENT_BYTES, KernelSide, Need, Report, State, Wanted};
use crate::attribution::linux::procfs::{Hidden, ScanError, Scanner};
use crate::model::Found;
use crate::sandbox::{self, Needs, Role};
use crate::source::{self, Capture, CaptureOptions};

/// Tries everything.
pub(super) fn examine() -> Examination {
    let mut findings = vec![capture()];
    let can_record = findings.iter().all(|finding| finding.state == "ok");
    let before = findings.len();
    hooks(&mut findings);
    let can_attribute = findings[before..].iter().all(|finding| finding.state != "missing");
    let lookup = lookup();
    let can_look_up = lookup.state != "missing";
    findings.push(lookup);
    findings.push(restriction());
    let verdict = verdict(can_record, can_attribute, can_look_up);
    Examination { findings, verdict, can_record, can_attribute }
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

fn restriction() -> Finding {
    let status = sandbox::probe(&Needs::of(Role::Record));
    let remedies: Vec<_> = status.missing().iter().map(|(layer, _)| layer.remedy()).collect();
    Finding {
        what: "sandbox".into(),
        purpose: "to give up what a recording does not need once it runs".into(),
        state: if remedies.is_empty() { "ok" } else { "partly" },
        detail: status.to_string(),
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
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
