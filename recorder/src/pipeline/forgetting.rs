//! Forgets processes that are over: a recording may go on for weeks.
//!
//! Only between two files. A file numbers its records of processes from its beginning, and at its end stands one more of each, so that it
//! needs all of them until then.

use std::collections::HashSet;

use super::busiest;
use crate::attribution::Attributor;
use crate::model::{MonoTime, ProcessIndex};

/// So many processes are remembered before it is worth a look; later twice as many as were left.
const WORTH_A_LOOK: usize = 1024;
/// So many of those with the most packets are remembered all the same: they stand in the report.
const REPORTED: usize = 32;

/// Who is over.
pub(super) struct Forgetting {
    has_ended: Box<dyn Fn(u32) -> bool>,
    due_at: usize,
    /// What was found at the last look, and when that was.
    over: Option<(MonoTime, HashSet<ProcessIndex>)>,
}

impl Forgetting {
    /// Has seen nothing yet. `has_ended` tells by a process id whether it is not in use any more.
    pub(super) fn new(has_ended: impl Fn(u32) -> bool + 'static) -> Self {
        Self { has_ended: Box::new(has_ended), due_at: WORTH_A_LOOK, over: None }
    }

    /// Looks who is over at this time, or forgets who was at the last look. `by_process` has the packets of each process. All
    /// events from before `watermark` are known.
    ///
    /// Whether processes have other indexes now.
    pub(super) fn between_files(
        &mut self,
        attributor: &mut Attributor,
        by_process: &mut Vec<u64>,
        (now, watermark): (MonoTime, MonoTime),
    ) -> bool {
        // What a process did before it ended may still be on its way to us.
        if let Some((_, mut over)) = self.over.take_if(|(looked, _)| *looked < watermark) {
            busiest(by_process, REPORTED).iter().for_each(|(index, _)| {
                over.remove(index);
            });
            forget(attributor, by_process, &over);
            self.due_at = WORTH_A_LOOK.max(2 * attributor.processes().len());
            return true;
        }
        let processes = attributor.processes();
        if self.over.is_none() && processes.len() >= self.due_at {
            let over = processes.iter().filter(|(_, process)| (self.has_ended)(process.pid));
            self.over = Some((now, over.map(|(index, _)| index).collect()));
        }
        false
    }
}

fn forget(attributor: &mut Attributor, by_process: &mut Vec<u64>, over: &HashSet<ProcessIndex>) {
    let renumbering = attributor.forget_processes(|index| over.contains(&index));
    let mut old = 0;
    by_process.retain(|_| {
        old += 1;
        renumbering.of(ProcessIndex(old - 1)).is_some()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::event::{
        Cookie, Event, Happening, NetNs, ProcessId, ProcessNews, SocketNews, User,
    };
    use crate::attribution::news::{News, Origin};
    use crate::model::{Endpoint, Flow, Protocol, RealTime};

    const COUNT: u32 = 2 * WORTH_A_LOOK as u32;

    fn at(ns: u64) -> MonoTime {
        MonoTime::from_ns(ns)
    }

    fn process(pid: u32) -> News {
        News::Event(Event::Process(ProcessNews {
            id: ProcessId(u64::from(pid)),
            pid,
            start_boottime_ns: 1000,
            exec_id: 0,
            parent_pid: 1,
            uid: 0,
            cgroup: Vec::new(),
            older_cgroups: Vec::new(),
            comm: pid.to_string().into(),
            path: Vec::new(),
            arguments: None,
            tracked: false,
        }))
    }

    fn has_a_socket(pid: u32) -> News {
        let end = |port| Endpoint::new([127, 0, 0, 1].into(), port);
        News::Event(Event::Socket(SocketNews {
            happening: Happening::IsUsed,
            at: at(1),
            cookie: Cookie(u64::from(pid)),
            netns: NetNs(5),
            flow: Flow { protocol: Protocol::UDP, local: end(5000), remote: end(53) },
            user: Some(User { process: ProcessId(u64::from(pid)), tid: 0, since: at(1), handover: None }),
            existed: at(0),
            remote_isn: 0,
            connects: false,
            drained: false,
            closed_by_other: false,
        }))
    }

    /// An attribution that knows processes 1 to [`COUNT`].
    fn attributor() -> Attributor {
        let mut attributor = Attributor::new(Origin { netns: NetNs(5), boot: RealTime::from_ns(0) }, None);
        (1..=COUNT).for_each(|pid| attributor.learn(process(pid)));
        attributor
    }

    fn pids(attributor: &Attributor) -> Vec<u32> {
        attributor.processes().iter().map(|(_, process)| process.pid).collect()
    }

    #[test]
    fn who_runs_or_has_a_socket_that_is_remembered_or_had_most_of_the_packets_stays() {
        let (running, with_socket, busy) = (7, COUNT - 1, 900);
        let mut attributor = attributor();
        attributor.learn(has_a_socket(with_socket));
        let mut by_process = vec![0; busy as usize];
        by_process[busy as usize - 1] = 5;
        let mut forgetting = Forgetting::new(move |pid| pid != running);

        assert!(!forgetting.between_files(&mut attributor, &mut by_process, (at(10), at(9))), "it looks");
        attributor.learn(process(COUNT + 1));
        assert!(
            !forgetting.between_files(&mut attributor, &mut by_process, (at(12), at(10))),
            "not all that happened before the look is known"
        );
        assert!(forgetting.between_files(&mut attributor, &mut by_process, (at(14), at(11))));
        assert_eq!(
            pids(&attributor),
            [running, busy, with_socket, COUNT + 1],
            "the last came after the look"
        );
        assert_eq!(by_process, [0, 5]);
        assert!(
            !forgetting.between_files(&mut attributor, &mut by_process, (at(15), at(14))),
            "too few to look"
        );
    }

    #[test]
    fn where_all_run_on_nobody_is_forgotten_and_the_next_look_is_later() {
        let (mut attributor, mut by_process) = (attributor(), Vec::new());
        let mut forgetting = Forgetting::new(|_| false);
        assert!(!forgetting.between_files(&mut attributor, &mut by_process, (at(10), at(9))));
        assert!(forgetting.between_files(&mut attributor, &mut by_process, (at(12), at(11))));
        assert_eq!(attributor.processes().len(), COUNT as usize);
        assert!(!forgetting.between_files(&mut attributor, &mut by_process, (at(14), at(13))));
        assert!(forgetting.over.is_none(), "twice as many, then it looks");
    }
}
