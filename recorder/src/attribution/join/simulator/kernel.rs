//! What the kernel side tells of the world, as recorder-ebpf does.

use super::*;

impl World {
    // ---- The kernel side: recorder-ebpf/src/socket.rs, step by step ----

    fn announce(&mut self, news: SocketNews) -> bool {
        if self.random.within(0, 1000) < self.loss_per_mille {
            self.has_lost = true;
            return false;
        }
        self.events.push(news);
        true
    }

    fn news(&self, socket: usize, kept: Kept, happening: Happening, at: u64, flow: Flow) -> SocketNews {
        let Socket { cookie, netns, remote_isn, .. } = self.sockets[socket];
        let user = User {
            handover: None,
            process: ProcessId(kept.process),
            tid: kept.process as u32,
            since: MonoTime::from_ns(kept.since),
        };
        SocketNews {
            happening,
            at: MonoTime::from_ns(at),
            cookie: Cookie(cookie),
            netns: NetNs(netns),
            flow,
            user: (kept.process != 0).then_some(user),
            existed: MonoTime::from_ns(kept.existed),
            remote_isn,
            connects: false,
            drained: false,
            closed_by_other: false,
        }
    }

    /// The moment at which a hook reads the clock, a little before it reserves its place in the ring.
    fn hook_time(&mut self) -> u64 {
        self.now - self.random.within(0, US)
    }

    pub(super) fn create(&mut self, process: u64, netns: u32, flow: Flow, listens: bool) -> usize {
        let at = self.hook_time();
        let cookie = self.id();
        let mut kept = Kept::default();
        // A TCP socket is kept from when it is bound.
        if listens || flow.protocol != Protocol::TCP {
            // The announcement of the process may be what is lost.
            let is_lost = self.random.within(0, 1000) < self.loss_per_mille;
            self.has_lost |= is_lost;
            let use_epoch = if is_lost { 0 } else { self.epoch };
            kept = Kept { process, since: at, existed: at, use_epoch, ..Kept::default() };
        }
        let holders = vec![process];
        let user = Some(process);
        self.sockets.push(Socket {
            cookie,
            netns,
            flow,
            listens,
            holders,
            is_open: true,
            is_dead: false,
            remote_isn: 0,
            queue: VecDeque::new(),
            user,
            heirs: Vec::new(),
            is_kept: true,
            kept,
        });
        self.sockets.len() - 1
    }

    pub(super) fn used(&mut self, socket: usize, process: u64) {
        let at = self.hook_time();
        self.sockets[socket].user = Some(process);
        self.sockets[socket].is_kept = true;
        let kept = &mut self.sockets[socket].kept;
        if kept.process == process && kept.use_epoch == self.epoch {
            return;
        }
        kept.change_user(process, at);
        let kept = *kept;
        let flow = self.flow_in_socket(socket);
        if self.announce(self.news(socket, kept, Happening::IsUsed, at, flow)) {
            self.sockets[socket].kept.use_epoch = self.epoch;
        }
    }

    /// connect(2), and accept(2) that asks for the peer.
    pub(super) fn used_for_connection(&mut self, socket: usize, process: u64) {
        if self.sockets[socket].kept.process != 0 {
            return self.used(socket, process);
        }
        let at = self.hook_time();
        self.sockets[socket].user = Some(process);
        let mut flow = self.flow_in_socket(socket);
        if self.connections.iter().all(|connection| connection.server != Some(socket)) {
            flow.remote.port = 0;
        }
        let unkept = Kept { process, since: at, ..Kept::default() };
        let news = self.news(socket, unkept, Happening::IsUsed, at, flow);
        self.announce(SocketNews { connects: true, ..news });
    }

    /// A reset takes the port from a socket that was not bound to one.
    fn flow_in_socket(&self, socket: usize) -> Flow {
        let Socket { mut flow, is_dead, .. } = self.sockets[socket];
        if is_dead {
            flow.local.port = 0;
        }
        flow
    }

    /// A packet of a socket without connections.
    pub(super) fn has_flow(&mut self, socket: usize, flow: Flow) {
        let at = self.hook_time();
        let kept = self.sockets[socket].kept;
        if !self.sockets[socket].is_kept || kept.flow_epoch == self.epoch && kept.flow == Some(flow) {
            return;
        }
        if self.announce(self.news(socket, kept, Happening::HasFlow, at, flow)) {
            let kept = &mut self.sockets[socket].kept;
            kept.flow = Some(flow);
            kept.flow_epoch = self.epoch;
        }
    }

    /// A SYN leaves a socket or reaches the one that listens.
    pub(super) fn opened(&mut self, socket: usize, happening: Happening, flow: Flow, remote_isn: u32) {
        let at = self.hook_time();
        let mut kept = self.sockets[socket].kept;
        // A listener of which nothing is kept is older than we are.
        if kept.process == 0 && happening == Happening::HasFlow {
            kept.existed = at;
        }
        self.announce(SocketNews { remote_isn, ..self.news(socket, kept, happening, at, flow) });
    }

    pub(super) fn closed(&mut self, socket: usize, process: u64) {
        let at = self.hook_time();
        self.sockets[socket].user = Some(process);
        let mut kept = self.sockets[socket].kept;
        let flow = self.flow_in_socket(socket);
        kept.change_user(process, at);
        self.announce(self.news(socket, kept, Happening::IsClosed, at, flow));
    }
}
