//! Which hooks are attached on which kernel. docs/LIMITS.md has this table; each machine is held to its column.

use crate::KERNELS;

/// A hook as `recorder doctor` calls it, and whether it is attached, on each of `KERNELS`.
pub(crate) const HOOKS: [(&str, [bool; KERNELS.len()]); 26] = [
    ("cgroup/sock_create", EVERYWHERE),
    ("cgroup/sock_release", EVERYWHERE),
    ("cgroup/post_bind4", EVERYWHERE),
    ("cgroup/post_bind6", EVERYWHERE),
    ("cgroup/connect4", EVERYWHERE),
    ("cgroup/connect6", EVERYWHERE),
    ("cgroup/getpeername4", EVERYWHERE),
    ("cgroup/getpeername6", EVERYWHERE),
    ("cgroup/sock_ops", [true, false, false, false]),
    ("fexit/inet_csk_accept", EVERYWHERE),
    ("cgroup/sendmsg4", EVERYWHERE),
    ("cgroup/sendmsg6", EVERYWHERE),
    ("tp_btf/tcp_sendmsg_locked", [false, false, false, true]),
    ("tp_btf/sock_send_length", SINCE_6_3),
    ("tp_btf/sock_recv_length", SINCE_6_3),
    ("fentry/inet_sendmsg", [true, true, true, false]),
    ("fentry/inet6_sendmsg", [true, true, true, false]),
    ("fentry/inet_sendpage", BEFORE_6_3),
    ("fexit/inet_recvmsg", BEFORE_6_3),
    ("fexit/inet6_recvmsg", BEFORE_6_3),
    ("cgroup/recvmsg4", BEFORE_6_3),
    ("cgroup/recvmsg6", BEFORE_6_3),
    ("tp_btf/sched_process_exec", EVERYWHERE),
    ("tp_btf/sched_process_fork", EVERYWHERE),
    ("cgroup_skb/egress", EVERYWHERE),
    ("cgroup_skb/ingress", EVERYWHERE),
];

const EVERYWHERE: [bool; KERNELS.len()] = [true; KERNELS.len()];
const SINCE_6_3: [bool; KERNELS.len()] = [false, false, true, true];
const BEFORE_6_3: [bool; KERNELS.len()] = [true, true, false, false];
