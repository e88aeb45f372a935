//! What a file says about the recording as a whole.

use super::{Attributing, Plan};
use crate::attribution::linux::ebpf::State;
use crate::attribution::linux::procfs::Hidden;
use crate::pcapng::SectionInfo;

/// The section header of each file of the recording.
pub(super) fn section(plan: &Plan, attributing: &Attributing) -> SectionInfo {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let mut comments = plan.comments.clone();
    comments.extend(plan.processes.as_ref().map(|expr| format!("processes: {expr}")));
    comments.push(how_owners_are_found(attributing));
    SectionInfo {
        hardware: Some(std::env::consts::ARCH.to_owned()),
        os: release.map(|release| format!("Linux {}", release.trim_end())),
        application: Some(concat!("recorder ", env!("CARGO_PKG_VERSION")).to_owned()),
        comments,
    }
}

/// What the file says about it.
fn how_owners_are_found(attributing: &Attributing) -> String {
    let hidden = |hidden: &Hidden| {
        hidden.in_words().iter().fold(String::new(), |text, words| format!("{text}; {words}"))
    };
    match attributing {
        Attributing::Ebpf { reports, snapshot } => {
            let active = reports.iter().filter(|report| report.state == State::Active);
            let active: Vec<_> = active.map(|report| report.hook.hook).collect();
            let snapshot = match snapshot {
                Ok(seen) => hidden(seen),
                Err(error) => format!("; no snapshot: {error}"),
            };
            format!("attribution: ebpf; hooks: {}{snapshot}", active.join(" "))
        }
        Attributing::Procfs { refused: None, hidden: seen } => {
            format!("attribution: procfs, as asked for{}", hidden(seen))
        }
        Attributing::Procfs { refused: Some(error), hidden: seen } => {
            format!("attribution: procfs; ebpf is refused: {error}{}", hidden(seen))
        }
        Attributing::Off => "attribution: none, as asked for".to_owned(),
        Attributing::Unavailable(error, lookup) => {
            format!("attribution: none; ebpf is refused: {error}; procfs: {lookup}")
        }
    }
}
