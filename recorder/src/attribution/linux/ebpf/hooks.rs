//! Which programs there are, what each is for, and how it is attached.

use std::fmt;
use std::os::fd::BorrowedFd;

use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError};
use aya::{Btf, Ebpf};

/// How badly a program is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it there is no attribution.
    Base,
    /// It follows a socket to the process that really uses it.
    Follow,
    /// It does what another one does better, and is attached only where that one cannot be.
    InPlaceOf(&'static str),
    /// It knows the descendants of the recorded command, and is attached only for one.
    Descendants,
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Attached.
    Active,
    /// Not needed, and why.
    NotNeeded(String),
    /// The kernel refused it, and what it said.
    Refused(String),
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the object file.
    pub program: &'static str,
    /// The hook, as the kernel's documentation calls it.
    pub hook: &'static str,
    /// How badly it is needed.
    pub need: Need,
    /// What it tells.
    pub tells: &'static str,
}

/// A program and what became of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The program.
    pub hook: Hook,
    /// What became of it.
    pub state: State,
}

const fn hook(program: &'static str, hook: &'static str, need: Need, tells: &'static str) -> Hook {
    Hook { program, hook, need, tells }
}

/// All programs, in the order in which they are attached: who owns a socket is known before its packets are seen.
pub(super) const HOOKS: [Hook; 20] = [
    hook("sock_create", "cgroup/sock_create", Need::Base, "who creates a socket"),
    hook("sock_release", "cgroup/sock_release", Need::Base, "when a socket is closed"),
    hook("post_bind4", "cgroup/post_bind4", Need::Follow, "from when on an IPv4 socket can receive"),
    hook("post_bind6", "cgroup/post_bind6", Need::Follow, "from when on an IPv6 socket can receive"),
    hook("connect4", "cgroup/connect4", Need::Follow, "who connects an IPv4 socket"),
    hook("connect6", "cgroup/connect6", Need::Follow, "who connects an IPv6 socket"),
    hook(
        "getpeername4",
        "cgroup/getpeername4",
        Need::Follow,
        "who accepts an IPv4 connection, if it asks for the peer",
    ),
    hook(
        "getpeername6",
        "cgroup/getpeername6",
        Need::Follow,
        "who accepts an IPv6 connection, if it asks for the peer",
    ),
    hook(
        "inet_csk_accept_2",
        "fexit/inet_csk_accept",
        Need::Follow,
        "who accepts a connection (Linux 6.10 and later)",
    ),
    hook(
        "inet_csk_accept_4",
        "fexit/inet_csk_accept",
        Need::Follow,
        "who accepts a connection (before Linux 6.10)",
    ),
    hook("sendmsg4", "cgroup/sendmsg4", Need::Follow, "who is about to send an IPv4 datagram"),
    hook("sendmsg6", "cgroup/sendmsg6", Need::Follow, "who is about to send an IPv6 datagram"),
    hook(
        "tcp_sendmsg_locked",
        "tp_btf/tcp_sendmsg_locked",
        Need::Follow,
        "who is about to send on a TCP connection",
    ),
    hook("sock_send_length", "tp_btf/sock_send_length", Need::Follow, "who has sent"),
    hook("sock_recv_length", "tp_btf/sock_recv_length", Need::Follow, "who has received"),
    hook("recvmsg4", "cgroup/recvmsg4", Need::InPlaceOf("sock_recv_length"), "who receives an IPv4 datagram"),
    hook("recvmsg6", "cgroup/recvmsg6", Need::InPlaceOf("sock_recv_length"), "who receives an IPv6 datagram"),
    hook(
        "sched_process_fork",
        "tp_btf/sched_process_fork",
        Need::Descendants,
        "the descendants of the recorded command",
    ),
    hook("egress", "cgroup_skb/egress", Need::Base, "which socket sends a packet"),
    hook("ingress", "cgroup_skb/ingress", Need::Base, "which socket receives a packet"),
];

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::NotNeeded(why) => write!(f, "not needed: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

/// What programs are attached to.
pub(super) struct Site<'a> {
    /// The root of the cgroup tree.
    pub cgroup: BorrowedFd<'a>,
    /// The kernel's types.
    pub btf: &'a Btf,
    /// How many parameters `inet_csk_accept` has here.
    pub accept_parameters: Option<usize>,
    /// Whether a command's descendants are to be followed.
    pub follow_descendants: bool,
}

/// Loads and attaches every program that is needed here, and tells what became of each.
pub(super) fn attach_all(ebpf: &mut Ebpf, site: &Site<'_>) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        let state = match not_needed(&hook, site, &reports) {
            Some(why) => State::NotNeeded(why),
            None => match attach(ebpf, &hook, site) {
                Ok(()) => State::Active,
                Err(error) => State::Refused(explain(&error)),
            },
        };
        reports.push(Report { hook, state });
    }
    reports
}

fn not_needed(hook: &Hook, site: &Site<'_>, so_far: &[Report]) -> Option<String> {
    match hook.need {
        Need::InPlaceOf(better) => {
            let better = so_far.iter().find(|report| report.hook.program == better)?;
            (better.state == State::Active).then(|| format!("{} tells more", better.hook.hook))
        }
        Need::Descendants if !site.follow_descendants => Some("no command is recorded".to_owned()),
        // The returned socket is the argument after the parameters, so there is one program for each signature.
        _ => match (hook.program, site.accept_parameters) {
            ("inet_csk_accept_2", Some(2)) | ("inet_csk_accept_4", Some(4)) => None,
            ("inet_csk_accept_2" | "inet_csk_accept_4", Some(_)) => {
                Some("for another kernel's signature".to_owned())
            }
            ("inet_csk_accept_2" | "inet_csk_accept_4", None) => Some("no such kernel function".to_owned()),
            _ => None,
        },
    }
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, site: &Site<'_>) -> Result<(), ProgramError> {
    let Some(program) = ebpf.program_mut(hook.program) else {
        return Err(ProgramError::InvalidName { name: hook.program.to_owned() });
    };
    // A link always allows other programs beside it; any flag would be refused.
    let mode = CgroupAttachMode::Single;
    // What the kernel calls the place, without the kind of program in front.
    let function = hook.hook.rsplit('/').next().unwrap_or(hook.hook);
    match program {
        Program::CgroupSock(program) => {
            program.load()?;
            program.attach(site.cgroup, mode)?;
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            program.attach(site.cgroup, mode)?;
        }
        Program::CgroupSkb(program) => {
            program.load()?;
            let direction = if hook.program == "egress" {
                CgroupSkbAttachType::Egress
            } else {
                CgroupSkbAttachType::Ingress
            };
            program.attach(site.cgroup, direction, mode)?;
        }
        Program::BtfTracePoint(program) => {
            program.load(function, site.btf)?;
            program.attach()?;
        }
        Program::FExit(program) => {
            program.load(function, site.btf)?;
            program.attach()?;
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(())
}

/// One line that says why; of the verifier's log, the line that counts.
fn explain(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let words = log.lines().rev().find(|line| !line.is_empty() && !is_statistics(line));
            match words {
                Some(words) => format!("{io_error}: {words}"),
                None => io_error.to_string(),
            }
        }
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        ProgramError::Btf(_) => "this kernel has no such hook".to_owned(),
        other => other.to_string(),
    }
}

/// What the verifier says after its last word on the matter (`print_verification_stats` of kernel/bpf/verifier.c).
fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth ", "verification time "].iter().any(|start| line.starts_with(start))
}
