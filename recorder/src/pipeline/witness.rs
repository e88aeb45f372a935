//! Who tells which process has which socket, and how that is settled at the start.

use super::scans::Scans;
use super::{Attributing, AttributionMode, Error, Plan};
use crate::attribution::event::Scan;
use crate::attribution::linux::ebpf::{KernelSide, Wanted};
use crate::attribution::linux::procfs::{Hidden, ScanError, Scanner};
use crate::model::Found;

/// Who tells which process has which socket.
pub(super) enum Witness {
    /// The kernel side, as it happens.
    Ebpf(Box<KernelSide>),
    /// /proc, as it is looked at.
    Procfs(Scans),
    Nobody,
}

/// Loads the kernel side, or finds out why not and what else works; then looks at the sockets that are there.
pub(super) fn attach(plan: &Plan) -> Result<(Witness, Option<Scan>, Attributing), Error> {
    let with_command = !plan.command.is_empty();
    match plan.attribution {
        AttributionMode::None => return Ok((Witness::Nobody, None, Attributing::Off)),
        AttributionMode::Procfs => {
            let (scans, scan) = Scans::begin()?;
            let hidden = scans.hidden();
            return Ok((Witness::Procfs(scans), Some(scan), Attributing::Procfs { refused: None, hidden }));
        }
        AttributionMode::Auto | AttributionMode::Ebpf => {}
    }
    let wanted = Wanted {
        descendants: with_command,
        arguments: plan.with_arguments,
        event_bytes: plan.event_buffer_bytes,
    };
    match KernelSide::attach(wanted) {
        Ok(kernel_side) => {
            let reports = kernel_side.reports().to_vec();
            let (scan, snapshot) = take_snapshot()
                .map_or_else(|error| (None, Err(error)), |(scan, hidden)| (Some(scan), Ok(hidden)));
            Ok((Witness::Ebpf(Box::new(kernel_side)), scan, Attributing::Ebpf { reports, snapshot }))
        }
        // Without owners nobody knows which packets are the command's.
        Err(error) if plan.attribution == AttributionMode::Ebpf || with_command => Err(error.into()),
        Err(error) => Ok(match Scans::begin() {
            Ok((scans, scan)) => {
                let hidden = scans.hidden();
                (Witness::Procfs(scans), Some(scan), Attributing::Procfs { refused: Some(error), hidden })
            }
            // Nor which are those of the chosen processes.
            Err(_) if plan.processes.is_some() => return Err(error.into()),
            Err(lookup) => (Witness::Nobody, None, Attributing::Unavailable(error, lookup)),
        }),
    }
}

/// The sockets that are older than the hooks. Looked up when these are attached, so that nothing falls between.
fn take_snapshot() -> Result<(Scan, Hidden), ScanError> {
    let mut scanner = Scanner::default();
    let scan = scanner.scan(Found::Snapshot)?;
    Ok((scan, scanner.hidden()))
}
