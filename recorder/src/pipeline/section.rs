//! What a file says about the recording as a whole.

use super::{Attributing, Plan};
#[cfg(target_os = "linux")]
use crate::attribution::linux::ebpf::State;
#[cfg(target_os = "linux")]
use crate::attribution::linux::procfs::Hidden;
use crate::pcapng::SectionInfo;

/// The section header of each file of the recording. `restricted` is what it says of what holds the recorder back.
pub(super) fn section(plan: &Plan, attributing: &Attributing, restricted: Option<String>) -> SectionInfo {
    let mut comments = plan.comments.clone();
    comments.extend(plan.processes.as_ref().map(|expr| format!("processes: {expr}")));
    comments.extend(restricted);
    comments.push(how_owners_are_found(attributing));
    SectionInfo {
        hardware: Some(std::env::consts::ARCH.to_owned()),
        os: system(),
        application: Some(concat!("recorder ", env!("CARGO_PKG_VERSION")).to_owned()),
        comments,
    }
}

/// `Linux 6.12.1`; of another system the name alone.
fn system() -> Option<String> {
    if cfg!(target_os = "linux") {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
        return Some(format!("Linux {}", release.trim_end()));
    }
    Some(std::env::consts::OS.to_owned())
}

/// What the file says about it.
fn how_owners_are_found(attributing: &Attributing) -> String {
    #[cfg(target_os = "linux")]
    let hidden = |hidden: &Hidden| {
        hidden.in_words().iter().fold(String::new(), |text, words| format!("{text}; {words}"))
    };
    match attributing {
        #[cfg(target_os = "linux")]
        Attributing::Ebpf { reports, snapshot } => {
            let active = reports.iter().filter(|report| report.state == State::Active);
            let active: Vec<_> = active.map(|report| report.hook.hook).collect();
            let snapshot = match snapshot {
                Ok(seen) => hidden(seen),
                Err(error) => format!("; no snapshot: {error}"),
            };
            format!("attribution: ebpf; hooks: {}{snapshot}", active.join(" "))
        }
        #[cfg(target_os = "linux")]
        Attributing::Procfs { refused: None, hidden: seen } => {
            format!("attribution: procfs, as asked for{}", hidden(seen))
        }
        #[cfg(target_os = "linux")]
        Attributing::Procfs { refused: Some(error), hidden: seen } => {
            format!("attribution: procfs; ebpf is refused: {error}{}", hidden(seen))
        }
        Attributing::Pktap => "attribution: pktap".to_owned(),
        Attributing::Off => "attribution: none, as asked for".to_owned(),
        #[cfg(target_os = "linux")]
        Attributing::Unavailable(error, lookup) => {
            format!("attribution: none; ebpf is refused: {error}; procfs: {lookup}")
        }
    }
}
