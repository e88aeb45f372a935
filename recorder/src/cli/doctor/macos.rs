//! What a recording needs on macOS: root, and PKTAP.

use nix::unistd::Uid;

use super::{Examination, Finding};
use crate::source::{Capture, CaptureOptions};

/// Tries everything. Owners come with the packets.
pub(super) fn examine() -> Examination {
    let findings = vec![privileges(), capture()];
    let works = findings.iter().all(|finding| finding.state == "ok");
    let verdict = if works { "recording works here, with owners" } else { "recording does not work here" };
    Examination { findings, verdict, can_record: works, can_attribute: works }
}

fn privileges() -> Finding {
    let is_root = Uid::effective().is_root();
    Finding {
        what: "root".into(),
        purpose: "to make an interface pktapN; what ChmodBPF opens (/dev/bpf*) is not enough for that".into(),
        state: if is_root { "ok" } else { "missing" },
        detail: if is_root { "this is root" } else { "this is an ordinary user" }.into(),
        remedy: (!is_root).then(|| "run with sudo; reading files needs no privilege".into()),
    }
}

fn capture() -> Finding {
    let (state, detail, remedy) = match Capture::open(&CaptureOptions::default()) {
        Ok(_) => ("ok", "PKTAP could be opened on all interfaces".to_owned(), None),
        Err(error) => ("missing", error.to_string(), error.remedy()),
    };
    Finding {
        what: "packet capture".into(),
        purpose: "Apple's libpcap with pktap, to see packets and their processes".into(),
        state,
        detail,
        remedy,
    }
}
