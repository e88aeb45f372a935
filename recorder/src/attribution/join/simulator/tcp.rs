//! Connections: listening, connecting, accepting, talking, and how they end.

use super::*;

impl World {
    /// One packet of a connection, and the hooks before and behind it.
    fn tcp(&mut self, connection: usize, from_client: bool, opens: bool) {
        let Connection { client, server, listener, flow, isn, .. } = self.connections[connection];
        let (sender, receiver) = if from_client { (Some(client), server) } else { (server, Some(client)) };
        let flow = if from_client { flow } else { flow.reversed() };
        if let Some(sender) = sender.filter(|_| opens) {
            self.opened(sender, Happening::HasFlow, flow, 0);
        }
        self.pass(US, 3 * US);
        let right = [self.users(sender), self.users(receiver)];
        let netns = self.sockets[client].netns;
        let packet = self.packet(netns, flow, opens, right);
        if server.is_none() {
            let end = usize::from(from_client);
            // Nobody has accepted it yet: the one user of the listener is as good as the one that will.
            let user = self.users(Some(listener));
            self.packets[packet].right[end].get_or_insert_default().extend(user);
            self.connections[connection].waiting.push((packet, end));
        }
        self.pass(US, 20 * US);
        if opens {
            self.opened(listener, Happening::IsOpened, flow.reversed(), isn);
        }
        self.pass(5 * US, 60 * US);
    }

    pub(super) fn listen(&mut self) {
        let netns = self.netns();
        let port = self.random.within(80, 83) as u16;
        let Some(process) = self.random.of(&self.processes) else { return };
        let there = self
            .open_sockets(|socket| socket.listens && socket.netns == netns && socket.flow.local.port == port);
        // Port 82 is shared (SO_REUSEPORT).
        if !there.is_empty() && (port != 82 || there.len() > 2) {
            return;
        }
        let flow = Flow { protocol: Protocol::TCP, local: end(0, port), remote: end(0, 0) };
        let socket = self.create(process, netns, flow, true);
        if self.random.one_in(2) {
            // A server that forks before it accepts.
            for _ in 0..2 {
                let child = self.id();
                self.processes.push(child);
                self.sockets[socket].holders.push(child);
            }
        }
    }

    fn client_flow(&mut self, port: u16) -> Flow {
        let own_port = self.random.within(40_000, 40_006) as u16;
        Flow { protocol: Protocol::TCP, local: end(1, own_port), remote: end(2, port) }
    }

    pub(super) fn connect(&mut self) {
        let Some(some) = self.random.of(&self.open_sockets(|socket| socket.listens)) else { return };
        let Some(process) = self.random.of(&self.processes) else { return };
        let netns = self.sockets[some].netns;
        let flow = self.client_flow(self.sockets[some].flow.local.port);
        let connection = self.connect_as(process, netns, flow);
        if let Some(connection) = connection
            && self.random.one_in(16)
        {
            // Gives up, and somebody else tries again from the same port, before anybody has accepted.
            self.reset(connection);
            self.pass(20 * US, 2 * MS);
            if let Some(process) = self.random.of(&self.processes) {
                self.connect_as(process, netns, flow);
            }
        }
    }

    /// Which of the sockets that share a port gets this flow: a hash over those that are there.
    pub(super) fn share(flow: Flow, there: &[usize]) -> Option<usize> {
        let hash = usize::from(flow.local.port ^ flow.remote.port);
        there.get(hash % there.len().max(1)).copied()
    }

    fn connect_as(&mut self, process: u64, netns: u32, flow: Flow) -> Option<usize> {
        let there = self.open_sockets(|socket| {
            socket.listens && socket.netns == netns && socket.flow.local.port == flow.remote.port
        });
        let listener = Self::share(flow, &there)?;
        let is_taken = self.connections.iter().any(|connection| {
            connection.flow == flow && self.sockets[connection.client].netns == netns && !connection.is_over
        });
        if is_taken {
            return None;
        }
        let client = self.create(process, netns, flow, false);
        self.used_for_connection(client, process);
        let server_cookie = self.id();
        self.connections.push(Connection {
            client,
            server: None,
            server_cookie,
            isn: server_cookie as u32,
            listener,
            flow,
            is_over: false,
            waiting: Vec::new(),
        });
        let connection = self.connections.len() - 1;
        self.tcp(connection, true, true);
        self.tcp(connection, false, false);
        self.tcp(connection, true, false);
        self.sockets[listener].queue.push_back(connection);
        let most = if self.random.one_in(12) { 200 * MS } else { 25 * MS };
        self.after(10 * US, most, Later::Accept(listener));
        Some(connection)
    }

    pub(super) fn accept(&mut self, listener: usize) {
        let Some(connection) = self.sockets[listener].queue.pop_front() else { return };
        let Connection { client, flow, is_over, isn, server_cookie: cookie, .. } =
            self.connections[connection];
        let Some(process) = self.random.of(&self.sockets[listener].holders) else { return };
        let netns = self.sockets[client].netns;
        self.sockets.push(Socket {
            cookie,
            netns,
            flow: flow.reversed(),
            listens: false,
            holders: vec![process],
            is_open: true,
            is_dead: false,
            remote_isn: isn,
            queue: VecDeque::new(),
            user: None,
            heirs: Vec::new(),
            is_kept: true,
            kept: Kept::default(),
        });
        let socket = self.sockets.len() - 1;
        self.connections[connection].server = Some(socket);
        self.used_for_connection(socket, process);
        for (packet, end) in std::mem::take(&mut self.connections[connection].waiting) {
            self.packets[packet].right[end].get_or_insert_default().push(process);
        }
        if is_over {
            self.sockets[socket].is_dead = true;
            self.after(MS, 40 * MS, Later::Close(socket));
        }
    }

    pub(super) fn talk(&mut self) {
        let open: Vec<usize> =
            (0..self.connections.len()).filter(|c| !self.connections[*c].is_over).collect();
        let Some(connection) = self.random.of(&open) else { return };
        for _ in 0..self.random.within(1, 4) {
            let Connection { client, server, .. } = self.connections[connection];
            let from_client = server.is_none() || self.random.one_in(2);
            let (sender, receiver) =
                if from_client { (Some(client), server) } else { (server, Some(client)) };
            let Some(sender) = sender else { return };
            let Some(process) = self.random.of(&self.sockets[sender].holders) else { return };
            self.used(sender, process);
            self.tcp(connection, from_client, false);
            if let Some(receiver) = receiver {
                self.after(5 * US, 2 * MS, Later::Receive(receiver));
            }
            self.tcp(connection, !from_client, false);
        }
    }

    pub(super) fn receive(&mut self, socket: usize) {
        if self.sockets[socket].is_open
            && !self.sockets[socket].is_dead
            && let Some(process) = self.random.of(&self.sockets[socket].holders)
        {
            self.used(socket, process);
        }
    }

    pub(super) fn hang_up(&mut self) {
        let open: Vec<usize> =
            (0..self.connections.len()).filter(|c| !self.connections[*c].is_over).collect();
        let Some(connection) = self.random.of(&open) else { return };
        let Connection { client, server, flow, .. } = self.connections[connection];
        if self.random.one_in(3) {
            self.reset(connection);
        } else {
            let first = if self.random.one_in(2) { client } else { server.unwrap_or(client) };
            self.close(first);
        }
        // Often somebody comes again from the same port.
        if self.random.one_in(2)
            && let Some(process) = self.random.of(&self.processes)
        {
            self.pass(50 * US, 900 * US);
            self.connect_as(process, self.sockets[client].netns, flow);
        }
    }

    /// One end is closed: FIN, and the other end follows; the last ACK comes from a socket that is closed.
    pub(super) fn finish(&mut self, connection: usize, by_client: bool) {
        self.connections[connection].is_over = true;
        self.tcp(connection, by_client, false);
        self.tcp(connection, !by_client, false);
        let Connection { client, server, .. } = self.connections[connection];
        let other = if by_client { server } else { Some(client) };
        if let Some(other) = other {
            self.close(other);
            self.tcp(connection, !by_client, false);
            self.tcp(connection, by_client, false);
        }
    }

    /// The client resets the connection; the server's process notices some time later.
    fn reset(&mut self, connection: usize) {
        let Connection { client, server, .. } = self.connections[connection];
        self.connections[connection].is_over = true;
        self.close(client);
        self.tcp(connection, true, false);
        if let Some(server) = server {
            self.sockets[server].is_dead = true;
            self.after(10 * US, 20 * MS, Later::Close(server));
        }
    }

    pub(super) fn knock_at_a_closed_port(&mut self) {
        let port = self.random.within(80, 83) as u16;
        let flow = self.client_flow(port);
        let there = |socket: &Socket| {
            socket.flow.protocol == Protocol::TCP
                && (socket.flow == flow
                    || socket.flow == flow.reversed()
                    || socket.listens && socket.flow.local.port == port)
        };
        if !self.open_sockets(there).is_empty()
            || self.connections.iter().any(|c| !c.is_over && c.flow == flow)
        {
            return;
        }
        let Some(process) = self.random.of(&self.processes) else { return };
        let client = self.create(process, 1, flow, false);
        self.used_for_connection(client, process);
        self.opened(client, Happening::HasFlow, flow, 0);
        self.pass(US, 3 * US);
        self.packet(1, flow, true, [vec![process], Vec::new()]);
        self.pass(10 * US, 50 * US);
        self.packet(1, flow.reversed(), false, [Vec::new(), vec![process]]);
        self.pass(2 * US, 18 * US);
        self.close(client);
    }
}
