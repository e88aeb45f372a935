//! Datagrams.

use super::*;

impl World {
    // ---- UDP ----

    fn udp(&self, is_wanted: impl Fn(&Socket) -> bool) -> Vec<usize> {
        self.open_sockets(|socket| socket.flow.protocol == Protocol::UDP && is_wanted(socket))
    }

    pub(super) fn open_udp(&mut self) {
        let Some(process) = self.random.of(&self.processes) else { return };
        let netns = self.netns();
        if self.random.one_in(2) {
            let port = self.random.within(53, 56) as u16;
            let there = self.udp(|socket| socket.netns == netns && socket.flow.local.port == port);
            // Port 55 is shared (SO_REUSEPORT).
            if there.is_empty() || port == 55 && there.len() < 3 {
                self.bind_udp(process, netns, port);
            }
            return;
        }
        let own_port = self.random.within(50_000, 50_006) as u16;
        if self.udp(|socket| socket.netns == netns && socket.flow.local.port == own_port).is_empty() {
            let port = if self.random.one_in(2) { 0 } else { self.random.within(53, 56) as u16 };
            let remote = if port == 0 { end(0, 0) } else { end(2, port) };
            let local = end(if port == 0 { 0 } else { 1 }, own_port);
            self.create(process, netns, Flow { protocol: Protocol::UDP, local, remote }, false);
        }
    }

    fn bind_udp(&mut self, process: u64, netns: u32, port: u16) -> usize {
        let flow = Flow { protocol: Protocol::UDP, local: end(0, port), remote: end(0, 0) };
        let socket = self.create(process, netns, flow, false);
        self.pass(2 * US, 30 * US);
        self.sockets[socket].kept.existed = self.now;
        self.pass(2 * US, 3 * US);
        socket
    }

    /// A datagram, to whichever socket has the port now.
    fn datagram(&mut self, sender: usize, flow: Flow) {
        let Some(process) = self.random.of(&self.sockets[sender].holders) else { return };
        let netns = self.sockets[sender].netns;
        // Without an address the sendmsg hook runs first; with one (send(2)) only the return tells.
        let is_told_before = self.sockets[sender].flow.remote.port == 0;
        if is_told_before {
            self.used(sender, process);
        }
        let is_kept = self.sockets[sender].is_kept;
        let kept = &mut self.sockets[sender].kept;
        if is_kept && kept.process != process {
            kept.suspect = process;
            kept.suspect_at = self.now;
        }
        self.has_flow(sender, flow);
        self.pass(US, 3 * US);
        self.sockets[sender].user = Some(process);
        let there = self.udp(|socket| {
            socket.netns == netns
                && socket.flow.local.port == flow.remote.port
                && (socket.flow.remote.port == 0 || socket.flow == flow.reversed())
        });
        let receiver = Self::share(flow, &there);
        let right = [vec![process], self.users(receiver)];
        self.packet(netns, flow, false, right);
        self.pass(US, 20 * US);
        if let Some(receiver) = receiver {
            self.has_flow(receiver, flow.reversed());
            self.after(5 * US, 3 * MS, Later::Receive(receiver));
        }
        if !is_told_before {
            self.pass(US, 400 * US);
            self.used(sender, process);
        }
        self.pass(US, 20 * US);
    }

    pub(super) fn send_udp(&mut self) {
        let Some(sender) = self.random.of(&self.udp(|socket| socket.flow.local.port >= 50_000)) else {
            return;
        };
        let own = self.sockets[sender].flow;
        let port = if own.remote.port == 0 { self.random.within(53, 56) as u16 } else { own.remote.port };
        let flow = Flow { protocol: Protocol::UDP, local: end(1, own.local.port), remote: end(2, port) };
        for _ in 0..self.random.within(1, 4) {
            self.datagram(sender, flow);
            let netns = self.sockets[sender].netns;
            let servers = self.udp(|socket| socket.netns == netns && socket.flow.local.port == port);
            if let Some(server) = Self::share(flow, &servers) {
                self.datagram(server, flow.reversed());
            }
        }
        if self.random.one_in(3) {
            self.close(sender);
        }
    }

    /// The server goes away with a packet still in the queue, misses one, and another one takes its place.
    pub(super) fn restart_udp(&mut self) {
        let Some(old) = self.random.of(&self.udp(|socket| socket.flow.local.port < 100)) else { return };
        let Socket { netns, kept: Kept { flow, .. }, flow: Flow { local, .. }, .. } = self.sockets[old];
        self.close(old);
        let there = self.udp(|socket| socket.netns == netns && socket.flow.local.port == local.port);
        if there.is_empty()
            && let Some(flow) = flow
        {
            let user = self.users(Some(old));
            let last = self.packet(netns, flow, false, [user, Vec::new()]);
            self.pass(5 * US, 2 * MS);
            let missed = self.packet(netns, flow.reversed(), false, [Vec::new(), Vec::new()]);
            // The client is another host this time.
            self.packets[last].right[1] = None;
            self.packets[missed].right[0] = None;
        }
        self.pass(5 * US, 3 * MS);
        if let Some(process) = self.random.of(&self.processes)
            && (there.is_empty() || local.port == 55)
        {
            self.bind_udp(process, netns, local.port);
        }
    }
}
