//! What a scan of the sockets sees of the world.

use super::*;

impl World {
    /// Lists sockets, some time later looks for their holders, and ends some time after that.
    pub(super) fn scan(&mut self, action: u32) {
        match action.checked_sub(self.scanning.begins_after) {
            Some(0) => self.scanning.began = self.now,
            Some(2) => {
                let is_listed = |socket: &Socket| socket.is_open && !socket.is_dead;
                self.scanning.listed = self.open_sockets(is_listed);
                let waiting = self.connections.iter().filter(|c| !c.is_over && c.server.is_none());
                self.scanning.waiting = waiting.map(|connection| self.waiting(connection)).collect();
            }
            Some(4) => {
                let Scanning { listed, waiting, .. } = &self.scanning;
                let seen = listed.iter().map(|socket| self.sighting(&self.sockets[*socket]));
                let sockets = seen.chain(waiting.iter().copied()).collect();
                let times = MonoTime::from_ns(self.scanning.began);
                let scan = Scan {
                    began: times,
                    ended: times,
                    found: Found::Snapshot,
                    processes: Vec::new(),
                    sockets,
                };
                self.scanning.done = Some(scan);
            }
            Some(5) => {
                let ended = MonoTime::from_ns(self.now);
                self.scanning.done.iter_mut().for_each(|scan| scan.ended = ended);
            }
            _ => {}
        }
    }

    /// All sockets at one moment.
    pub(super) fn look(&mut self, at: u64) {
        let there = self.open_sockets(|socket| !socket.is_dead);
        let waiting = self.connections.iter().filter(|c| !c.is_over && c.server.is_none());
        let sockets = there.into_iter().map(|socket| self.sighting(&self.sockets[socket]));
        let sockets = sockets.chain(waiting.map(|connection| self.waiting(connection))).collect();
        let (began, ended) = (MonoTime::from_ns(at), MonoTime::from_ns(at));
        self.looks.push(Scan { began, ended, found: Found::Procfs, processes: Vec::new(), sockets });
    }

    fn sighting(&self, socket: &Socket) -> Sighting {
        let mut flow = socket.flow;
        for end in [&mut flow.local, &mut flow.remote] {
            if *end == self::end(0, end.port) {
                *end = Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), end.port);
            }
        }
        Sighting {
            cookie: Cookie(socket.cookie),
            netns: NetNs(socket.netns),
            flow,
            reach: Reach { v4: true, v6: false, one_device: false },
            holder: match socket.holders[..] {
                [] => Holder::Nobody,
                [only] => Holder::One(ProcessId(only)),
                _ => Holder::Unclear,
            },
        }
    }

    /// A connection that nobody has accepted; it has its cookie already.
    fn waiting(&self, connection: &Connection) -> Sighting {
        Sighting {
            cookie: Cookie(connection.server_cookie),
            netns: NetNs(self.sockets[connection.client].netns),
            flow: connection.flow.reversed(),
            reach: Reach { v4: true, v6: false, one_device: false },
            holder: Holder::Unclear,
        }
    }
}
