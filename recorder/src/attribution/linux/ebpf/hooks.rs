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
    /// It does what others do, and is attached only where one of these programs cannot be.
    InPlaceOf(&'static [&'static str]),
    /// It makes accepted sockets known to the program that sees accept(2), and is attached only where that one cannot do
    /// so itself: see `TRACING_HELPERS` of the kernel side.
    WithoutTracingHelpers,
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
pub(super) const HOOKS: [Hook; 27] = [
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
        "connection_stands",
        "cgroup/sock_ops",
        Need::WithoutTracingHelpers,
        "an incoming connection stands, so that its accept can be told",
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
    hook("inet_sendmsg", "fentry/inet_sendmsg", Need::InPlaceOf(&SENDS), "who is about to send over IPv4"),
    hook("inet6_sendmsg", "fentry/inet6_sendmsg", Need::InPlaceOf(&SENDS), "who is about to send over IPv6"),
    hook(
        "inet_sendpage",
        "fentry/inet_sendpage",
        Need::InPlaceOf(&SENDS),
        "who is about to send a file (until Linux 6.4)",
    ),
    hook("inet_recvmsg", "fexit/inet_recvmsg", Need::InPlaceOf(&RECEIVES), "who has received over IPv4"),
    hook("inet6_recvmsg", "fexit/inet6_recvmsg", Need::InPlaceOf(&RECEIVES), "who has received over IPv6"),
    hook("recvmsg4", "cgroup/recvmsg4", Need::InPlaceOf(&RECEIVES), "who receives an IPv4 datagram"),
    hook("recvmsg6", "cgroup/recvmsg6", Need::InPlaceOf(&RECEIVES), "who receives an IPv6 datagram"),
    hook(
        "sched_process_exec",
        "tp_btf/sched_process_exec",
        Need::Follow,
        "since when a program can have waited on a socket that it was given",
    ),
    hook(
        "sched_process_fork",
        "tp_btf/sched_process_fork",
        Need::Descendants,
        "the descendants of the recorded command",
    ),
    hook("egress", "cgroup_skb/egress", Need::Base, "which socket sends a packet"),
    hook("ingress", "cgroup_skb/ingress", Need::Base, "which socket receives a packet"),
];

/// The tracepoints of sends; without the first one the beginning of a send over TCP is not seen.
const SENDS: [&str; 2] = ["tcp_sendmsg_locked", "sock_send_length"];
/// The tracepoint of receives.
const RECEIVES: [&str; 1] = ["sock_recv_length"];

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
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    /// The root of the cgroup tree.
    pub cgroup: BorrowedFd<'a>,
    /// The kernel's types.
    pub btf: &'a Btf,
    /// Whether tracing programs have the helpers of Linux 5.11 and 5.12.
    pub tracing_helpers: bool,
    /// How many parameters `inet_csk_accept` has here.
    pub accept_parameters: Option<usize>,
    /// Whether a command's descendants are to be followed.
    pub follow_descendants: bool,
}

/// Loads and attaches every program that is needed here, and tells what became of each. Stops at the first base program that
/// is refused where that may be for want of the tracing helpers.
pub(super) fn attach_all(ebpf: &mut Ebpf, site: &Site<'_>) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::with_capacity(HOOKS.len());
    for hook in HOOKS {
        let state = match not_needed(&hook, site, &reports) {
            Some(why) => State::NotNeeded(why),
            None => match (attach(ebpf, &hook, site), hook.need) {
                (Ok(()), _) => State::Active,
                // A function of other kernels: what it does here, another one does.
                (Err(ProgramError::Btf(_)), Need::InPlaceOf(_)) => State::NotNeeded(NO_SUCH_HOOK.to_owned()),
                (Err(error), _) => State::Refused(explain(&error)),
            },
        };
        let is_over = site.tracing_helpers && hook.need == Need::Base && state != State::Active;
        reports.push(Report { hook, state });
        if is_over {
            return reports;
        }
    }
    name_replacements(&mut reports);
    reports
}

/// A program that was refused is not needed where others are attached in place of it.
fn name_replacements(reports: &mut [Report]) {
    let active = |report: &&Report| report.state == State::Active;
    let replacements: Vec<Hook> = reports.iter().filter(active).map(|report| report.hook).collect();
    for Report { hook, state } in reports {
        let in_place_of_it =
            |other: &&Hook| matches!(other.need, Need::InPlaceOf(better) if better.contains(&hook.program));
        let names: Vec<_> = replacements.iter().filter(in_place_of_it).map(|other| other.hook).collect();
        if let (State::Refused(why), false) = (&*state, names.is_empty()) {
            *state = State::NotNeeded(format!("{why}; in place of it: {}", names.join(", ")));
        }
    }
}

fn not_needed(hook: &Hook, site: &Site<'_>, so_far: &[Report]) -> Option<String> {
    match hook.need {
        Need::InPlaceOf(better) => {
            let is_better = |report: &&Report| better.contains(&report.hook.program);
            let better: Vec<&Report> = so_far.iter().filter(is_better).collect();
            let names: Vec<_> = better.iter().map(|report| report.hook.hook).collect();
            let all_active = better.iter().all(|report| report.state == State::Active);
            all_active.then(|| format!("told by {}", names.join(", ")))
        }
        Need::WithoutTracingHelpers if site.tracing_helpers => {
            Some("accept tells by itself which socket it is".to_owned())
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
        Program::FEntry(program) => {
            program.load(function, site.btf)?;
            program.attach()?;
        }
        Program::SockOps(program) => {
            program.load()?;
            program.attach(site.cgroup, mode)?;
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    Ok(())
}

const NO_SUCH_HOOK: &str = "this kernel has no such hook";

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
        ProgramError::Btf(_) => NO_SUCH_HOOK.to_owned(),
        other => other.to_string(),
    }
}

/// What the verifier says after its last word on the matter (`print_verification_stats` of kernel/bpf/verifier.c).
fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth ", "verification time "].iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(states: &[(&str, State)]) -> Vec<Report> {
        let hook = |program: &str| *HOOKS.iter().find(|hook| hook.program == program).expect("a hook");
        states.iter().map(|(program, state)| Report { hook: hook(program), state: state.clone() }).collect()
    }

    fn refused() -> State {
        State::Refused("no".to_owned())
    }

    #[test]
    fn a_refused_hook_is_not_needed_where_another_one_is_attached_in_place_of_it() {
        let mut reports = reports(&[
            ("tcp_sendmsg_locked", refused()),
            ("inet_sendmsg", State::Active),
            ("connect4", refused()),
        ]);
        name_replacements(&mut reports);
        let words = "no; in place of it: fentry/inet_sendmsg".to_owned();
        assert_eq!(reports[0].state, State::NotNeeded(words));
        assert_eq!(reports[2].state, refused(), "nothing is in place of connect4");
    }

    #[test]
    fn what_is_refused_like_the_one_in_place_of_it_is_told() {
        let mut reports = reports(&[("sock_recv_length", refused()), ("inet_recvmsg", refused())]);
        name_replacements(&mut reports);
        assert_eq!([&reports[0].state, &reports[1].state], [&refused(), &refused()]);
    }

    #[test]
    fn what_stands_in_for_others_stands_behind_them() {
        for (at, hook) in HOOKS.iter().enumerate() {
            let Need::InPlaceOf(better) = hook.need else { continue };
            let before = |program: &&&str| HOOKS[..at].iter().any(|earlier| earlier.program == **program);
            assert_eq!(better.iter().filter(before).count(), better.len(), "{hook:?}");
        }
    }

    #[test]
    fn the_verifiers_last_word_is_not_its_statistics() {
        let statistics =
            ["verification time 30 usec", "stack depth 224+0+112", "processed 1299 insns (limit 1000000)"];
        assert!(statistics.into_iter().all(is_statistics));
        assert!(!is_statistics("R1 max value is outside of the allowed memory range"));
    }
}
