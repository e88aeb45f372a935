//! What each role may not do, tried from inside: system calls made as an attacker would make them who owns the process. Each
//! role is tried in a thread of its own, which is what the kernel restricts. Needs nothing; as root it shows more.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are test code too")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use libc::c_long;
use recorder::sandbox::{ASKS_TRACKING, LOOKS, Layer, Needs, Role, Status, restrict};

/// What the kernel answers: 0, or the number of the error.
fn call(number: c_long, arguments: [c_long; 5]) -> i32 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the arguments are numbers, null, or pointers to what outlives the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

fn pointer<T: ?Sized>(value: &T) -> c_long {
    std::ptr::from_ref(value).cast::<u8>() as c_long
}

/// All that an attacker would like to do, with what the kernel answers. `tcp` and `udp` are sockets from before.
fn attempts(tcp: i32, udp: i32, outside: &Path) -> BTreeMap<&'static str, i32> {
    let loopback = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 9_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let (address, length) = (pointer(&loopback), size_of_val(&loopback) as c_long);
    let socket = |family: i32, kind: i32, protocol: i32| {
        call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0])
    };
    let outside = [outside.as_os_str().as_encoded_bytes(), b"\0"].concat();
    let program = c"/bin/true".to_bytes_with_nul();
    let arguments = [pointer(program), 0];
    let at = c_long::from(libc::AT_FDCWD);
    let open = |flags: i32| call(libc::SYS_openat, [at, pointer(&outside[..]), flags.into(), 0o600, 0]);
    let exec = || call(libc::SYS_execve, [pointer(program), pointer(&arguments), 0, 0, 0]);
    // Not a process that would go on here: the flags are such that the kernel refuses them, if seccomp does not.
    let fork = || call(libc::SYS_clone, [libc::CLONE_THREAD.into(), 0, 0, 0, 0]);
    let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let private = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    BTreeMap::from([
        ("a packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
        ("a raw socket", socket(libc::AF_INET, libc::SOCK_RAW, 1)),
        ("a TCP socket", socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
        ("a UDP socket", socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)),
        ("a netlink socket for routes", socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)),
        ("a connection by TCP", call(libc::SYS_connect, [tcp.into(), address, length, 0, 0])),
        ("waiting for TCP", call(libc::SYS_bind, [tcp.into(), address, length, 0, 0])),
        ("sending by UDP", {
            // The sixth argument, the length of the address, is 0: EINVAL, if it is let through.
            call(libc::SYS_sendto, [udp.into(), pointer(b"x"), 1, 0, address])
        }),
        ("sendmsg", call(libc::SYS_sendmsg, [udp.into(), 0, 0, 0, 0])),
        ("execve", exec()),
        ("a process", fork()),
        ("bpf", call(libc::SYS_bpf, [0, 0, 0, 0, 0])),
        ("ptrace", call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as c_long, 0, 0, 0, 0])),
        ("reading a file outside", open(libc::O_RDONLY)),
        ("writing a file outside", open(libc::O_WRONLY | libc::O_CREAT)),
        ("removing a file outside", call(libc::SYS_unlinkat, [at, pointer(&outside[..]), 0, 0, 0])),
        ("kill", call(libc::SYS_kill, [1, 0, 0, 0, 0])),
        ("typing into a terminal", call(libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, 0, 0, 0])),
        ("memory that can be executed", call(libc::SYS_mmap, [0, 4096, executable, private, -1])),
        ("another user", call(libc::SYS_setuid, [0, 0, 0, 0, 0])),
        ("a namespace", call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0])),
        ("a mount", call(libc::SYS_mount, [0, 0, 0, 0, 0])),
        ("a descriptor of another process", call(libc::SYS_pidfd_open, [1, 0, 0, 0, 0])),
        ("io_uring", call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0])),
        ("a second descriptor", call(libc::SYS_dup, [tcp.into(), 0, 0, 0, 0])),
    ])
}

/// What a thread of this role is refused, and what it is not.
fn in_role(needs: &Needs, outside: &Path) -> (Status, BTreeMap<&'static str, i32>, String) {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (tcp.as_raw_fd(), udp.as_raw_fd());
    let ((told, tells), (read, waits)) = (mpsc::channel(), mpsc::channel());
    thread::scope(|scope| {
        let tried = scope.spawn(move || {
            // SAFETY: the call has no arguments.
            let thread = unsafe { libc::gettid() };
            let status = restrict(needs);
            let answers = attempts(tcp, udp, outside);
            told.send(thread).unwrap();
            // Until somebody has looked at it.
            waits.recv().unwrap();
            (status, answers)
        });
        let thread = tells.recv().unwrap();
        let shown = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        read.send(()).unwrap();
        let (status, answers) = tried.join().unwrap();
        (status, answers, shown)
    })
}

fn roles(folder: &Path) -> Vec<(&'static str, Needs)> {
    let ring =
        Needs { write_in: vec![folder.to_owned()], read: vec!["/proc".into()], ..Needs::of(Role::Record) };
    vec![
        ("the loop of one file", Needs::of(Role::Record)),
        ("the loop of a ring of files", ring),
        ("compression", Needs::of(Role::Compress)),
        ("reading", Needs { read: vec![folder.to_owned()], ..Needs::of(Role::Read) }),
        (
            "copying",
            Needs {
                read: vec![folder.to_owned()],
                write_in: vec![folder.to_owned()],
                ..Needs::of(Role::Read)
            },
        ),
        ("asking connection tracking", Needs { keeps: Some(ASKS_TRACKING), ..Needs::of(Role::Translate) }),
    ]
}

/// That a role may do nothing of this, but what is excepted.
fn assert_refused(role: &str, answers: &BTreeMap<&str, i32>, excepted: &[&str]) {
    let through: Vec<_> = answers
        .iter()
        .filter(|(what, error)| !excepted.contains(what) && ![libc::EPERM, libc::EACCES].contains(error))
        .collect();
    assert!(through.is_empty(), "{role} may: {through:?}\n{answers:?}");
}

/// The capability sets of a thread, as the kernel shows them.
fn capabilities(status: &str) -> Vec<(&str, u64)> {
    let line = |line: &'static str| {
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(":\t"));
        (line, value.and_then(|value| u64::from_str_radix(value, 16).ok()).unwrap_or(u64::MAX))
    };
    ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(line).to_vec()
}

#[test]
fn whatever_a_role_does_not_need_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().join("secret");
    fs::write(&outside, "of somebody else").unwrap();
    for (role, needs) in roles(folder.path()) {
        let (status, answers, shown) = in_role(&needs, &outside);
        // Asking needs a netlink socket, which is to be connected; there are no others that it could use.
        let excepted: &[&str] = match needs.role {
            Role::Translate => &["a connection by TCP", "waiting for TCP", "sending by UDP"],
            _ => &[],
        };
        assert_refused(role, &answers, excepted);
        assert!(outside.exists(), "{role}");
        let holds: Vec<_> = status.holding().collect();
        assert!(
            holds.contains(&Layer::Seccomp) && holds.contains(&Layer::NoNewPrivileges),
            "{role}: {status}"
        );
        assert!(shown.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{role}: {shown}");
        let kept = needs.keeps.map_or(0, |(kept, _)| kept.bits());
        for (set, bits) in capabilities(&shown) {
            assert_eq!(bits & !kept, 0, "{role}: {set} {bits:x}\n{shown}");
        }
    }
}

#[test]
fn what_a_role_needs_it_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let needs = Needs { write_in: vec![path.clone()], read: vec![path.clone()], ..Needs::of(Role::Record) };
    let done = thread::spawn(move || {
        let status = restrict(&needs);
        let file = path.join("next");
        let written =
            fs::write(&file, "x").and_then(|()| fs::read(&file)).and_then(|_| fs::remove_file(&file));
        (status, written)
    });
    let (status, written) = done.join().unwrap();
    assert!(written.is_ok(), "{written:?} under {status}");
}

#[test]
fn who_looks_into_proc_keeps_what_that_takes_and_says_so() {
    let needs = Needs { keeps: Some(LOOKS), read: vec!["/proc".into()], ..Needs::of(Role::RecordAndLook) };
    let folder = tempfile::tempdir().unwrap();
    let (status, answers, _) = in_role(&needs, &folder.path().join("new"));
    let missing: Vec<_> = status.missing().iter().map(|(layer, _)| *layer).collect();
    assert!(missing.contains(&Layer::Landlock) && !missing.contains(&Layer::Seccomp), "{status}");
    for what in
        ["execve", "bpf", "ptrace", "a packet socket", "a TCP socket", "a UDP socket", "kill", "a mount"]
    {
        assert_eq!(answers[what], libc::EPERM, "{what}\n{answers:?}");
    }
    assert_eq!(answers["writing a file outside"], libc::EPERM, "{answers:?}");
}

#[test]
fn a_packet_socket_is_read_and_never_written_to() {
    let ring = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    ring.connect(ring.local_addr().unwrap()).unwrap();
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    other.connect(ring.local_addr().unwrap()).unwrap();
    let needs = Needs { packet_sockets: vec![ring.as_raw_fd()], ..Needs::of(Role::Record) };
    let fds = [ring.as_raw_fd(), other.as_raw_fd()];
    let tried = thread::spawn(move || {
        restrict(&needs);
        fds.map(|fd| call(libc::SYS_write, [fd.into(), pointer(b"x"), 1, 0, 0]))
    });
    assert_eq!(tried.join().unwrap(), [libc::EPERM, 0], "only the other one can be written to");
}
