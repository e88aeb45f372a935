//! Owners where each packet tells its own process, as macOS does: nothing has to be joined.

use std::collections::HashMap;

use crate::decode::pktap::ProcessName;
use crate::decode::{self, Decoded};
use crate::model::{
    Attribution, Direction, Found, LinkType, Owner, Packet, Process, ProcessIndex, ProcessTable, Reason,
};

/// The processes that packets have told of so far. A process is one pid with one name and one UUID.
#[derive(Debug, Default)]
pub struct Told {
    processes: ProcessTable,
    known: HashMap<Key, ProcessIndex>,
}

/// What tells processes apart: pid, name, UUID.
type Key = (u32, Vec<u8>, Option<[u8; 16]>);

impl Told {
    /// The owner of a packet: `process` has the socket at this host's end. Where the direction is not known it is taken for the
    /// sender. On loopback each packet passes twice, once for each end.
    pub fn attribute(
        &mut self,
        packet: &Packet<'_>,
        link_type: LinkType,
        process: Option<ProcessName<'_>>,
    ) -> Attribution {
        let Some(ProcessName { pid, name, uuid }) = process else {
            return Attribution::Unknown(match decode::packet(link_type, packet.data) {
                Decoded::Ip(_) => Reason::NotTold,
                Decoded::NotIp(_) => Reason::NotIp,
            });
        };
        let table = &mut self.processes;
        let process = *self
            .known
            .entry((pid, name.to_vec(), uuid))
            .or_insert_with(|| table.push(Process { uuid, ..Process::new(pid, name) }));
        let owner = Some(Owner { process, tid: 0 });
        let (sender, receiver) = match packet.direction {
            Direction::Inbound => (None, owner),
            Direction::Outbound | Direction::Unknown => (owner, None),
        };
        Attribution::Known { sender, receiver, both_local: false, found: Found::Pktap }
    }

    /// The processes so far.
    pub const fn processes(&self) -> &ProcessTable {
        &self.processes
    }

    /// All processes, at the end.
    pub fn into_processes(self) -> ProcessTable {
        self.processes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InterfaceId, RealTime, Reception};

    fn packet(direction: Direction, data: &[u8]) -> Packet<'_> {
        Packet {
            interface: InterfaceId(0),
            time: RealTime::default(),
            direction,
            reception: Reception::Unknown,
            original_length: data.len() as u32,
            data,
        }
    }

    #[test]
    fn the_process_is_at_the_local_end_and_the_same_one_stays_the_same() {
        let mut told = Told::default();
        let curl = Some(ProcessName { pid: 512, name: b"curl", uuid: Some([7; 16]) });
        let ssh = Some(ProcessName { pid: 512, name: b"ssh", uuid: None });
        let sent = told.attribute(&packet(Direction::Outbound, &[]), LinkType::ETHERNET, curl);
        let received = told.attribute(&packet(Direction::Inbound, &[]), LinkType::ETHERNET, curl);
        let owner = Some(Owner { process: ProcessIndex(0), tid: 0 });
        let known = |sender, receiver| Attribution::Known {
            sender,
            receiver,
            both_local: false,
            found: Found::Pktap,
        };
        assert_eq!((sent, received), (known(owner, None), known(None, owner)));
        // The pid was given to another program.
        let other = told.attribute(&packet(Direction::Outbound, &[]), LinkType::ETHERNET, ssh);
        assert_eq!(other, known(Some(Owner { process: ProcessIndex(1), tid: 0 }), None));
        assert_eq!(told.into_processes().len(), 2);
    }

    #[test]
    fn without_a_process_there_is_a_reason() {
        let mut told = Told::default();
        let ip = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        for (data, reason) in [(&ip[..], Reason::NotTold), (&[0; 20], Reason::NotIp)] {
            let attribution = told.attribute(&packet(Direction::Inbound, data), LinkType::RAW_IP, None);
            assert_eq!(attribution, Attribution::Unknown(reason));
        }
    }
}
