//! Comments in which other programs name the process of a packet.
//!
//! ```text
//! ptcpdump     PID: 4242\nCmd: /usr/bin/curl\nArgs: curl example.org
//!              ThreadId: 4243\nThreadName: curl
//!              UserId: 1000
//!              ParentPID: 4000\nParentCmd: /usr/bin/bash\nParentArgs: bash
//!              ContainerName: web\nContainerId: 0123...\nContainerImage: ...\nContainerLabels: ...
//! RustNet      rustnet process=curl pid=4242 ppid=4000 uid=1000 attr=ebpf direction=outgoing
//! etl2pcapng   PID=4242 TID=4243
//! Apple        proc curl:4242, svc BE, out, flowid 0x12
//! ```
//! None of them escapes names, so a process can choose one that looks like more of the comment. What can be read in two
//! ways is not read at all.

use crate::model::{Direction, Process};

/// What the comments of a packet say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) process: Process,
    pub(super) tid: u32,
    pub(super) direction: Direction,
}

impl Foreign {
    fn new(pid: u32, name: &str) -> Self {
        Self { process: Process::new(pid, name), tid: 0, direction: Direction::Unknown }
    }
}

/// Adds what a comment says. ptcpdump begins with the process, and writes the rest behind it.
pub(super) fn read(comment: &str, into: &mut Option<Foreign>) {
    match into {
        None => {
            *into = ptcpdump(comment)
                .or_else(|| rustnet(comment))
                .or_else(|| etl2pcapng(comment))
                .or_else(|| apple(comment));
        }
        Some(foreign) => more_of_ptcpdump(comment, foreign),
    }
}

/// A process id that is one: 0 and -1 stand for none.
fn process_id(digits: &str) -> Option<u32> {
    digits.parse::<i32>().ok().filter(|pid| *pid > 0).map(i32::cast_unsigned)
}

fn ptcpdump(comment: &str) -> Option<Foreign> {
    let mut lines = comment.lines();
    let pid = process_id(lines.next()?.strip_prefix("PID: ")?)?;
    let command = lines.next()?.strip_prefix("Cmd: ")?;
    let name = command.rsplit('/').next().unwrap_or(command);
    let mut foreign = Foreign::new(pid, name);
    foreign.process.path = command.starts_with('/').then(|| command.into());
    Some(foreign)
}

fn more_of_ptcpdump(comment: &str, foreign: &mut Foreign) {
    let mut lines = comment.lines();
    let Some((key, value)) = lines.next().and_then(|line| line.split_once(": ")) else { return };
    match key {
        "ThreadId" => foreign.tid = process_id(value).unwrap_or(0),
        "UserId" => foreign.process.uid = value.parse().ok(),
        "ParentPID" => foreign.process.parent_pid = process_id(value),
        "ContainerName" => {
            let id = lines.next().and_then(|line| line.strip_prefix("ContainerId: "));
            let container = id.filter(|id| !id.is_empty()).unwrap_or(value);
            foreign.process.container = (!container.is_empty()).then(|| container.to_owned());
        }
        _ => {}
    }
}

fn rustnet(comment: &str) -> Option<Foreign> {
    let (name, rest) = comment.strip_prefix("rustnet process=")?.split_once(" pid=")?;
    if rest.contains(" pid=") {
        return None;
    }
    let mut words = rest.split(' ');
    let mut foreign = Foreign::new(process_id(words.next()?)?, name);
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        match (key, value) {
            ("ppid", _) => foreign.process.parent_pid = process_id(value),
            ("uid", _) => foreign.process.uid = value.parse().ok(),
            ("direction", "incoming") => foreign.direction = Direction::Inbound,
            ("direction", "outgoing") => foreign.direction = Direction::Outbound,
            _ => {}
        }
    }
    Some(foreign)
}

fn etl2pcapng(comment: &str) -> Option<Foreign> {
    let mut words = comment.split(' ');
    let pid = process_id(words.next()?.strip_prefix("PID=")?)?;
    let tid = words.next().and_then(|word| word.strip_prefix("TID="));
    let mut foreign = Foreign::new(pid, "");
    foreign.tid = tid.and_then(process_id).unwrap_or(0);
    Some(foreign)
}

fn apple(comment: &str) -> Option<Foreign> {
    let (name, rest) = comment.strip_prefix("proc ")?.split_once(':')?;
    if rest.contains(':') {
        return None;
    }
    let mut words = rest.split(", ");
    let mut foreign = Foreign::new(process_id(words.next()?)?, name);
    foreign.direction = words.find_map(direction).unwrap_or_default();
    Some(foreign)
}

fn direction(word: &str) -> Option<Direction> {
    match word {
        "in" => Some(Direction::Inbound),
        "out" => Some(Direction::Outbound),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(comments: &[&str]) -> Option<Foreign> {
        let mut foreign = None;
        comments.iter().for_each(|comment| read(comment, &mut foreign));
        foreign
    }

    #[test]
    fn the_comments_of_ptcpdump_are_put_together() {
        let container = "0123456789abcdef".repeat(4);
        let foreign = all(&[
            "PID: 4242\nCmd: /usr/bin/curl\nArgs: curl example.org",
            "ThreadId: 4243\nThreadName: curl",
            "UserId: 1000",
            "ParentPID: 4000\nParentCmd: /usr/bin/bash\nParentArgs: bash",
            &format!("ContainerName: web\nContainerId: {container}\nContainerImage: x\nContainerLabels: "),
            "PodName: p\nPodNamespace: default",
        ])
        .unwrap();
        let expected = Process {
            path: Some("/usr/bin/curl".into()),
            uid: Some(1000),
            parent_pid: Some(4000),
            container: Some(container),
            ..Process::new(4242, "curl")
        };
        assert_eq!(foreign, Foreign { process: expected, tid: 4243, direction: Direction::Unknown });
    }

    #[test]
    fn the_others_have_one_comment() {
        let rustnet =
            all(&["rustnet process=Web Content pid=14679 ppid=14512 uid=0 direction=incoming"]).unwrap();
        assert_eq!(rustnet.process.name, b"Web Content");
        assert_eq!(
            (rustnet.process.pid, rustnet.process.parent_pid, rustnet.process.uid),
            (14679, Some(14512), Some(0))
        );
        assert_eq!(rustnet.direction, Direction::Inbound);

        let windows = all(&["PID=4 TID=88 VlanId=7"]).unwrap();
        assert_eq!((windows.process.pid, windows.tid, windows.process.name.as_slice()), (4, 88, &b""[..]));

        let apple = all(&["proc mDNSResponder:512, svc BE, out, flowid 0x2"]).unwrap();
        assert_eq!((apple.process.pid, apple.process.name.as_slice()), (512, &b"mDNSResponder"[..]));
        assert_eq!(apple.direction, Direction::Outbound);
    }

    #[test]
    fn what_is_no_process_or_could_be_two_is_none() {
        for comment in [
            "",
            "hello",
            "PID: 0\nCmd: \nArgs: ",
            "PID: -1\nCmd: x\nArgs: ",
            "PID: 5",
            "PID=0 TID=0",
            "PID=-1 TID=5",
            "PID=4294967296",
            "PIDs=5",
            "rustnet process=curl",
            "rustnet process=curl pid=",
            "rustnet process=sshd pid=1 ppid=1 pid=4242 ppid=1",
            "proc curl",
            "proc curl:x, in",
            "proc sshd:1, in:4242, in",
            "proc curl:-1, in",
        ] {
            assert_eq!(all(&[comment]), None, "{comment:?}");
        }
    }
}
