//! Stores what the attribution is told beside the packets, so that it can be told again (`again.rs`).

use std::io;

use super::files::Files;
use crate::attribution::Attributor;
use crate::model::{Interface, InterfaceId};

/// Stores what the attribution's journal holds, if it keeps one.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// The numbers in the file of interfaces of which is stored that they are the loopback interface.
    loopbacks: Vec<InterfaceId>,
}

impl Keeper {
    /// Stores all that was learnt before a packet is written, which is of the interface with this number in the recording.
    pub(super) fn before_packet(
        &mut self,
        attributor: &mut Attributor,
        files: &mut Files<'_>,
        (interface, interfaces, is_loopback): (usize, &[Interface], bool),
    ) -> io::Result<()> {
        let Some(journal) = attributor.journal_mut() else { return Ok(()) };
        let number = files.number(interface, interfaces)?;
        if is_loopback && !self.loopbacks.contains(&number) {
            journal.loopback(number);
            self.loopbacks.push(number);
        }
        Self::store(attributor, files)
    }

    /// Stores all that was learnt.
    pub(super) fn store(attributor: &mut Attributor, files: &mut Files<'_>) -> io::Result<()> {
        let Some(journal) = attributor.journal_mut() else { return Ok(()) };
        if journal.bytes().is_empty() {
            return Ok(());
        }
        let result = files.kept_events(journal.bytes());
        journal.clear();
        result
    }
}
