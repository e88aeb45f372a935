//! Which system calls may be made, by seccomp: for each role the groups of calls that its work consists of, and nothing else.
//!
//! A call that is not allowed gives EPERM and ends nothing: what surprises costs a message, not a recording. Only clone3 gives
//! ENOSYS: its flags cannot be looked at, and the C library then takes clone.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::{Needs, Role};

/// A system call, and for which arguments it is allowed.
type Call = (c_long, Only);

/// For which arguments a call is allowed; they are numbered from 0.
#[derive(Clone, Copy, Debug)]
enum Only {
    /// For all.
    Any,
    /// The lower half of this argument is one of these.
    With(u8, &'static [u64]),
    /// This argument has none of these bits.
    Without(u8, u64),
    /// This argument has all of these bits.
    All(u8, u64),
    /// Both of these arguments have these values.
    Both((u8, u64), (u8, u64)),
    /// The descriptor, which is the first argument, is no packet socket.
    NotPackets,
}
use Only::{All, Any, Both, NotPackets, With, Without};

/// Memory: never such that it can be executed.
const MEMORY: &[Call] = &[
    (libc::SYS_brk, Any),
    (libc::SYS_madvise, Any),
    (libc::SYS_mmap, Without(2, libc::PROT_EXEC as u64)),
    (libc::SYS_mprotect, Without(2, libc::PROT_EXEC as u64)),
    (libc::SYS_mremap, Any),
    (libc::SYS_munmap, Any),
];

/// The processes beside this one, which end when it does.
const LEAVING: &[Call] = &[(libc::SYS_wait4, Any)];

/// What every thread does: wait for others and for the clock, begin, end, handle signals.
const THREAD: &[Call] = &[
    (libc::SYS_clock_getres, Any),
    (libc::SYS_clock_gettime, Any), // where the clock cannot be read without a call
    (libc::SYS_clock_nanosleep, Any),
    (libc::SYS_clone3, Any), // answered with ENOSYS, see above
    (libc::SYS_exit, Any),
    (libc::SYS_exit_group, Any),
    (libc::SYS_futex, Any),
    (libc::SYS_getpid, Any),
    (libc::SYS_getrandom, Any), // hashes that a sender of packets cannot aim at
    (libc::SYS_gettid, Any),
    (libc::SYS_gettimeofday, Any),
    (libc::SYS_nanosleep, Any),
    (libc::SYS_restart_syscall, Any), // a wait goes on after SIGSTOP and SIGCONT
    (libc::SYS_rseq, Any),            // the C library, when a thread begins
    (libc::SYS_rt_sigaction, Any),    // a second panic, or an abort, resets handlers
    (libc::SYS_rt_sigprocmask, Any),
    (libc::SYS_rt_sigreturn, Any),
    (libc::SYS_sched_getaffinity, Any), // how many cores there are
    (libc::SYS_sched_yield, Any),
    (libc::SYS_set_robust_list, Any),
    (libc::SYS_sigaltstack, Any), // Rust's, when a thread ends
];

/// A thread, and no process.
const STARTING: &[Call] = &[(libc::SYS_clone, All(0, (libc::CLONE_VM | libc::CLONE_THREAD) as u64))];

// include/uapi/asm-generic/ioctls.h; their type differs from C library to C library.
const TCGETS: u64 = 0x5401;
const TIOCGWINSZ: u64 = 0x5413;

/// What is open already: files, pipes, terminals, mapped rings.
const OPENED: &[Call] = &[
    (libc::SYS_close, Any),
    (libc::SYS_fcntl, With(1, &[libc::F_GETFD as u64, libc::F_GETFL as u64, libc::F_SETFL as u64])), // no F_DUPFD
    (libc::SYS_fstat, Any),
    // Whether it is a terminal, and how wide; not TIOCSTI, which types into it.
    (libc::SYS_ioctl, With(1, &[TCGETS, TIOCGWINSZ])),
    (libc::SYS_lseek, Any),
    (libc::SYS_newfstatat, Any), // fstat(3) of newer C libraries; tells names and times, and no contents
    (libc::SYS_ppoll, Any),
    (libc::SYS_read, Any),
    (libc::SYS_readv, Any),
    (libc::SYS_statx, Any), // the same
    (libc::SYS_write, NotPackets),
    (libc::SYS_writev, NotPackets),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, Any),
];

/// A capture that runs: counters, what netlink says of interfaces and addresses, and the end (a filter that lets nothing through).
const CAPTURE: &[Call] = &[
    (libc::SYS_getsockopt, Any), // PACKET_STATISTICS, SO_ERROR
    (libc::SYS_recvfrom, Any),
    (libc::SYS_setsockopt, Both((1, libc::SOL_SOCKET as u64), (2, libc::SO_ATTACH_FILTER as u64))),
];

/// Whether a process is still there.
const LIFETIMES: &[Call] = &[(libc::SYS_getpgid, Any)];

/// The file that is written: on a full disk its end is looked at, and its last packets make room for the counters.
const OUTPUT: &[Call] = &[(libc::SYS_ftruncate, Any), (libc::SYS_pread64, Any)];

/// Files that are read.
const READING: &[Call] = &[
    (libc::SYS_getdents64, Any),
    (libc::SYS_openat, Without(2, (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64)),
    (libc::SYS_readlinkat, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, Any),
];

/// Files that are created, given to their owner, and removed.
const WRITING: &[Call] = &[
    (libc::SYS_fchmod, Any),
    (libc::SYS_fchown, Any),
    (libc::SYS_fsync, Any),
    (libc::SYS_openat, Any), // which ones is for Landlock to say
    (libc::SYS_unlinkat, Any),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Any),
];

/// A look at the sockets of all processes: sock_diag in other network namespaces, each entered by a thread of its own.
const LOOKING: &[Call] = &[
    (libc::SYS_capget, Any),
    (libc::SYS_capset, Any), // takes a capability up for the time of the look
    (libc::SYS_setns, With(1, &[libc::CLONE_NEWNET as u64])),
    (libc::SYS_socket, Both((0, libc::AF_NETLINK as u64), (2, libc::NETLINK_SOCK_DIAG as u64))),
];

/// A netlink socket, once it is there.
const NETLINK: &[Call] = &[
    (libc::SYS_bind, Any),
    (libc::SYS_connect, Any),
    (libc::SYS_getsockname, Any),
    (libc::SYS_recvfrom, Any),
    (libc::SYS_sendto, NotPackets),
];

/// Connection tracking is asked through a socket that is opened when there is something to ask for.
const TRANSLATING: &[Call] =
    &[(libc::SYS_socket, Both((0, libc::AF_NETLINK as u64), (2, libc::NETLINK_NETFILTER as u64)))];

/// What the C library does when it looks up a user's name, sorts, or asks how much memory there is.
const LIBRARY: &[Call] = &[
    (libc::SYS_getcwd, Any),
    (libc::SYS_geteuid, Any),
    (libc::SYS_getuid, Any),
    (libc::SYS_pread64, Any),
    (libc::SYS_prlimit64, With(2, &[0])), // asks for a limit, and sets none
    (libc::SYS_sysinfo, Any),
    (libc::SYS_uname, Any),
];

/// Restricts the calling thread, and those that it starts.
pub(super) fn restrict(needs: &Needs) -> Result<(), String> {
    let allowed = rules(needs).and_then(|rules| program(rules, libc::EPERM, true));
    let refused = program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS, false);
    // The one that refuses first: the other one would not let it in.
    [refused, allowed].into_iter().try_for_each(|program| {
        let program = program.map_err(|error| format!("its filter is wrong: {error}"))?;
        apply_filter(&program).map_err(|error| error.to_string())
    })
}

fn groups(needs: &Needs) -> Vec<&'static [Call]> {
    let mut groups = vec![MEMORY, THREAD];
    match needs.role {
        Role::Compress => {
            groups.push(STARTING);
            return groups;
        }
        Role::Record => groups.extend([OPENED, CAPTURE, LIFETIMES, OUTPUT, LEAVING]),
        Role::RecordAndLook => {
            groups.extend([STARTING, OPENED, CAPTURE, LIFETIMES, OUTPUT, LEAVING, LOOKING, NETLINK]);
        }
        Role::Translate => groups.extend([OPENED, TRANSLATING, NETLINK]),
        Role::Read => groups.extend([OPENED, LIBRARY]),
    }
    if !needs.read.is_empty() {
        groups.push(READING);
    }
    if !needs.write_in.is_empty() {
        groups.push(WRITING);
    }
    groups
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type Built<T> = Result<T, seccompiler::BackendError>;

/// A call that two groups allow is allowed where either does; one without rules is allowed always.
fn rules(needs: &Needs) -> Built<Rules> {
    let mut rules = Rules::new();
    for &(number, only) in groups(needs).into_iter().flatten() {
        let new = only.rules(needs)?;
        let is_known = rules.contains_key(&number);
        let known = rules.entry(number).or_default();
        if new.is_empty() || is_known && known.is_empty() {
            known.clear();
        } else {
            known.extend(new);
        }
    }
    Ok(rules)
}

impl Only {
    fn rules(self, needs: &Needs) -> Built<Vec<SeccompRule>> {
        let is = |argument, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        };
        let masked = |argument, mask, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
        };
        match self {
            Any => Ok(Vec::new()),
            With(argument, values) => {
                values.iter().map(|value| SeccompRule::new(vec![is(argument, *value)?])).collect()
            }
            Without(argument, bits) => Ok(vec![SeccompRule::new(vec![masked(argument, bits, 0)?])?]),
            All(argument, bits) => Ok(vec![SeccompRule::new(vec![masked(argument, bits, bits)?])?]),
            Both(one, other) => Ok(vec![SeccompRule::new(vec![is(one.0, one.1)?, is(other.0, other.1)?])?]),
            NotPackets => {
                let is_not = |fd: &i32| {
                    let fd = u64::from(fd.unsigned_abs());
                    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, fd)
                };
                let conditions = needs.packet_sockets.iter().map(is_not).collect::<Built<Vec<_>>>()?;
                if conditions.is_empty() { Ok(Vec::new()) } else { Ok(vec![SeccompRule::new(conditions)?]) }
            }
        }
    }
}

/// A filter of these calls: it lets them through and refuses all others, or the other way round.
fn program(rules: Rules, error: i32, lets_through: bool) -> Built<BpfProgram> {
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let (others, these) =
        if lets_through { (refuse, SeccompAction::Allow) } else { (SeccompAction::Allow, refuse) };
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, others, these, architecture)?.try_into()
}
