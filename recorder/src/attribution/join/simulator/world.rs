//! What happens: processes that are born, call exec and end, and time that passes.

use super::*;

impl World {
    #[cfg(test)]
    pub(super) fn new(seed: u64, loss_per_mille: u64) -> Self {
        let random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self::of(random, loss_per_mille, [ACTIONS_BEFORE, ACTIONS])
    }

    /// `actions`: how many happen before the recording begins, and how many from then on; fewer where a script ends.
    pub(super) fn of(random: Random, loss_per_mille: u64, actions: [u32; 2]) -> Self {
        let [before, after] = actions;
        let mut world = Self {
            random,
            now: 1_000 * MS,
            epoch: 1,
            loss_per_mille,
            has_lost: false,
            raise_at: None,
            next_drain: 1_010 * MS,
            ids: 0,
            processes: Vec::new(),
            sockets: Vec::new(),
            connections: Vec::new(),
            later: BTreeMap::new(),
            events: Vec::new(),
            packets: Vec::new(),
            drains: Vec::new(),
            scanning: Scanning {
                begins_after: 0,
                began: 0,
                listed: Vec::new(),
                waiting: Vec::new(),
                done: None,
            },
            looks: Vec::new(),
        };
        for _ in 0..6 {
            let process = world.id();
            world.processes.push(process);
        }
        for _ in 0..before {
            if world.random.is_over() {
                break;
            }
            world.act();
        }
        world.begin();
        for action in 0..after {
            if world.random.is_over() {
                break;
            }
            world.scan(action);
            world.act();
        }
        world.pass(300 * MS, 300 * MS + 1);
        world
    }

    /// The recording begins: nothing is known of what there is.
    fn begin(&mut self) {
        self.events.clear();
        self.packets.clear();
        self.drains.clear();
        self.looks.clear();
        self.has_lost = false;
        self.raise_at = None;
        self.epoch = 1;
        for connection in &mut self.connections {
            connection.waiting.clear();
        }
        for socket in &mut self.sockets {
            socket.user = None;
            socket.heirs.clone_from(&socket.holders);
            socket.is_kept = false;
            socket.kept = Kept::default();
        }
        self.scanning.begins_after = self.random.within(0, 40) as u32;
    }

    pub(super) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    // ---- Time, and the pipeline as far as the kernel side notices it ----

    pub(super) fn pass(&mut self, least: u64, most: u64) {
        self.now += self.random.within(least, most);
        loop {
            if let Some(raise_at) = self.raise_at.filter(|at| *at <= self.now.min(self.next_drain)) {
                debug_assert!(raise_at <= self.now);
                self.epoch += 1;
                self.raise_at = None;
            }
            if self.next_drain > self.now {
                return;
            }
            let at = self.next_drain;
            self.drains.push(Drain { at, has_lost: self.has_lost });
            self.look(at);
            if self.has_lost {
                self.raise_at.get_or_insert(at + self.random.within(MS, 5 * MS));
            }
            self.has_lost = false;
            self.next_drain += self.random.within(10 * MS, 20 * MS);
        }
    }

    fn act(&mut self) {
        let until = self.now + self.random.within(20 * US, 2_500 * US);
        while let Some((&(at, order), _)) = self.later.first_key_value() {
            if at > until {
                break;
            }
            let step = at.saturating_sub(self.now) + US;
            self.pass(step, step + US);
            match self.later.remove(&(at, order)) {
                Some(Later::Accept(listener)) => self.accept(listener),
                Some(Later::Receive(socket)) => self.receive(socket),
                Some(Later::Close(socket)) => self.close(socket),
                None => {}
            }
        }
        let step = until.saturating_sub(self.now) + US;
        self.pass(step, step + US);
        match self.random.within(0, 100) {
            0..3 => self.live_and_die(),
            3..6 => self.fork(),
            6..8 => self.exec(),
            8..13 => self.listen(),
            13..33 => self.connect(),
            33..53 => self.talk(),
            53..65 => self.hang_up(),
            65..67 => self.knock_at_a_closed_port(),
            67..74 => self.open_udp(),
            74..95 => self.send_udp(),
            _ => self.restart_udp(),
        }
    }

    pub(super) fn after(&mut self, least: u64, most: u64, later: Later) {
        let at = self.now + self.random.within(least, most);
        let order = self.id();
        self.later.insert((at, order), later);
    }

    // ---- Packets ----

    /// A packet passes the tap now. `sent` and `received`: the sockets at its ends, if they have any.
    pub(super) fn packet(&mut self, netns: u32, flow: Flow, opens: bool, right: [Vec<u64>; 2]) -> usize {
        // A packet for nobody has the sockets of other namespaces for candidates unless its own is known.
        let knows_netns = self.random.one_in(2) || right[1].is_empty();
        let held = [flow, flow.reversed()].map(|flow| self.holders_of(netns, flow));
        let right = right.map(Some);
        self.packets.push(Packet { at: self.now, netns, flow, opens, knows_netns, right, held });
        self.packets.len() - 1
    }

    fn holders_of(&self, netns: u32, flow: Flow) -> Vec<u64> {
        let has_flow = |socket: &&Socket| {
            socket.is_open
                && socket.netns == netns
                && socket.flow.protocol == flow.protocol
                && (socket.flow == flow
                    || socket.flow.remote.port == 0 && socket.flow.local.port == flow.local.port)
        };
        self.sockets.iter().filter(has_flow).flat_map(|socket| socket.holders.iter().copied()).collect()
    }

    pub(super) fn users(&self, socket: Option<usize>) -> Vec<u64> {
        let Some(socket) = socket.map(|socket| &self.sockets[socket]) else { return Vec::new() };
        socket.user.map_or_else(|| socket.heirs.clone(), |user| vec![user])
    }

    // ---- What processes do ----

    fn live_and_die(&mut self) {
        if self.processes.len() > 8 {
            let place = self.random.next() as usize % self.processes.len();
            let process = self.processes.swap_remove(place);
            for socket in 0..self.sockets.len() {
                self.let_go(socket, process);
            }
        }
        let process = self.id();
        self.processes.push(process);
    }

    fn fork(&mut self) {
        let Some(parent) = self.random.of(&self.processes) else { return };
        let child = self.id();
        self.processes.push(child);
        for socket in
            self.sockets.iter_mut().filter(|socket| socket.is_open && socket.holders.contains(&parent))
        {
            socket.holders.push(child);
            if !socket.heirs.is_empty() {
                socket.heirs.push(child);
            }
        }
    }

    /// Another program in the same process is another owner; the sockets stay.
    fn exec(&mut self) {
        let Some(old) = self.random.of(&self.processes) else { return };
        let new = self.id();
        for socket in &mut self.sockets {
            if socket.heirs.contains(&old) {
                socket.heirs.push(new);
            }
        }
        let holders = self.sockets.iter_mut().flat_map(|socket| socket.holders.iter_mut());
        for process in self.processes.iter_mut().chain(holders).filter(|process| **process == old) {
            *process = new;
        }
    }

    fn let_go(&mut self, socket: usize, process: u64) {
        if !self.sockets[socket].is_open {
            return;
        }
        let holders = &mut self.sockets[socket].holders;
        let before = holders.len();
        holders.retain(|holder| *holder != process);
        if before > 0 && holders.is_empty() {
            self.release(socket, process);
        }
    }

    /// The last one closes it.
    fn release(&mut self, socket: usize, process: u64) {
        self.pass(US, 3 * US);
        self.closed(socket, process);
        self.sockets[socket].is_open = false;
        self.pass(US, 3 * US);
        let connection = self.connections.iter().position(|connection| {
            !connection.is_over && (connection.client == socket || connection.server == Some(socket))
        });
        if let Some(connection) = connection {
            self.finish(connection, self.connections[connection].client == socket);
        }
    }

    pub(super) fn close(&mut self, socket: usize) {
        if self.sockets[socket].is_open
            && let Some(process) = self.sockets[socket].holders.last().copied()
        {
            self.sockets[socket].holders.clear();
            self.release(socket, process);
        }
    }

    pub(super) fn open_sockets(&self, is_wanted: impl Fn(&Socket) -> bool) -> Vec<usize> {
        let all = self.sockets.iter().enumerate();
        all.filter(|(_, socket)| socket.is_open && is_wanted(socket)).map(|(place, _)| place).collect()
    }

    /// A script that loses events has one network namespace: docs/LIMITS.md tells what it would find with two.
    pub(super) fn netns(&mut self) -> u32 {
        let is_other = self.random.one_in(25) && !(self.random.is_scripted() && self.loss_per_mille > 0);
        if is_other { 2 } else { 1 }
    }
}
