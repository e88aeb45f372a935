//! Who runs right now, and how a process is announced once.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_probe_read_kernel_str, bpf_probe_read_user,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use recorder_shared::{
    ARGUMENTS_BYTES, CGROUP_BYTES, KIND_PROCESS, PATH_BYTES, PROCESS_ARGUMENTS_CUT, PROCESS_CGROUP_CUT,
    PROCESS_TRACKED, ProcessEvent, ProcessEventWithArguments, process_id,
};

use crate::kernel::{load, probe, probe_bytes};
use crate::maps::{
    EVENTS, EXECS, NO_WAKEUP, PROCESSES, TRACKED, count_loss, epoch, has_tracing_helpers, offset, wants_arguments,
};

/// `PF_KTHREAD` of include/linux/sched.h: a kernel thread, which is never the user of a socket.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_FORKNOEXEC` of include/linux/sched.h: forked, and has not called exec since.
const PF_FORKNOEXEC: u32 = 0x0000_0040;
/// The longest name of a file in a path (`NAME_MAX`), with its NUL.
const COMPONENT_BYTES: usize = 256;
/// More directories and mounts than this, and the path loses its beginning.
const PATH_STEPS: usize = 20;
/// The same for cgroups within each other.
const CGROUP_STEPS: usize = 16;

/// Stands for the start time of the recorder itself, which is in the map only while it forks the command.
const ANY_START: u64 = 0;

/// The process in whose context the program runs.
#[derive(Clone, Copy)]
pub struct Current {
    /// See [`process_id`].
    pub process: u64,
    /// The running thread.
    pub tid: u32,
}

/// Who runs right now; none for a kernel thread.
///
/// Only to be believed in hooks that run for a system call of the caller. Elsewhere the current task is a bystander.
#[inline(always)]
pub fn current() -> Option<Current> {
    if has_tracing_helpers() { current_by_type() } else { current_by_probe() }
}

#[inline(always)]
fn current_by_type() -> Option<Current> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() };
    let task = task.cast_const().cast::<c_void>();
    let (flags, group_leader) = (offset!(task_flags), offset!(task_group_leader));
    let (start_boottime, self_exec_id) = (offset!(task_start_boottime), offset!(task_self_exec_id));
    let (tgid, pid) = (offset!(task_tgid), offset!(task_pid));
    // SAFETY: `task` is typed, and the offset is that of a u32.
    let flags: u32 = unsafe { load(task, flags) };
    if flags & PF_KTHREAD != 0 {
        return None;
    }
    // SAFETY: `task` is typed, and the offset is that of a pointer.
    let leader: *const c_void = unsafe { load(task, group_leader) };
    // SAFETY: the verifier knows `leader` as a task, and the offset is that of a u64.
    let start: u64 = unsafe { load(leader, start_boottime) };
    // SAFETY: `task` is typed; the field is a u64 (u32 before 5.7) whose low half is enough, little-endian.
    let exec_id: u32 = unsafe { load(task, self_exec_id) };
    // SAFETY: `task` is typed, and the offset is that of a u32.
    let tgid: u32 = unsafe { load(task, tgid) };
    // SAFETY: the same.
    let tid: u32 = unsafe { load(task, pid) };
    Some(Current { process: process_id(tgid, start, exec_id), tid })
}

#[inline(always)]
fn current_by_probe() -> Option<Current> {
    let task = current_task();
    if probe::<u32>(task, offset!(task_flags)) & PF_KTHREAD != 0 {
        return None;
    }
    let leader: *const c_void = probe(task, offset!(task_group_leader));
    let (start, exec_id) = (probe(leader, offset!(task_start_boottime)), probe(task, offset!(task_self_exec_id)));
    let process = process_id(probe(task, offset!(task_tgid)), start, exec_id);
    Some(Current { process, tid: probe(task, offset!(task_pid)) })
}

/// Where the running process comes from.
#[derive(Clone, Copy)]
pub struct Beginning {
    /// When it began to be what it is: it was forked, or called exec. On the clock of events, unlike start_boottime, which
    /// goes on while the machine is suspended.
    pub at_ns: u64,
    /// Whether it has called exec since it was forked.
    pub executed: bool,
    /// The process id of its parent.
    pub parent_tgid: u32,
}

/// Where the running process comes from.
#[inline(always)]
pub fn current_beginning(tgid: u32) -> Beginning {
    let leader: *const c_void = probe(current_task(), offset!(task_group_leader));
    let parent: *const c_void = probe(leader, offset!(task_real_parent));
    let forked_ns: u64 = probe(leader, offset!(task_start_time));
    // SAFETY: the value is read at once.
    let executed_ns = unsafe { EXECS.get(tgid) }.map_or(0, |at_ns| *at_ns);
    // The entry may be of an earlier process with this id.
    let at_ns = if executed_ns > forked_ns { executed_ns } else { forked_ns };
    let executed = probe::<u32>(leader, offset!(task_flags)) & PF_FORKNOEXEC == 0;
    Beginning { at_ns, executed, parent_tgid: probe(parent, offset!(task_tgid)) }
}

/// The running process has replaced its program.
#[inline(always)]
pub fn executed() {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // LRU: cannot be full.
    let _ = EXECS.insert(tgid, now_ns, 0);
}

#[inline(always)]
fn current_task() -> *const c_void {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    task as *const c_void
}

/// Announces the current process, unless that was done in this epoch. Whether it is announced now.
#[inline(never)]
pub fn announce_current(process: u64) -> bool {
    let epoch = epoch();
    // SAFETY: the value is read at once.
    let announced = unsafe { PROCESSES.get(process) };
    if announced.is_some_and(|announced| *announced == epoch) {
        return true;
    }
    let is_announced = if wants_arguments() { announce_with_arguments(process) } else { announce(process) };
    if !is_announced {
        count_loss();
        return false;
    }
    // If the map cannot take it, the process is announced again: harmless.
    let _ = PROCESSES.insert(process, epoch, 0);
    true
}

#[inline(always)]
fn announce(process: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<ProcessEvent>(0) else { return false };
    fill(entry.as_mut_ptr(), process);
    entry.submit(NO_WAKEUP);
    true
}

#[inline(always)]
fn announce_with_arguments(process: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<ProcessEventWithArguments>(0) else { return false };
    let event = entry.as_mut_ptr();
    // The process is the first field.
    fill(event.cast(), process);
    // SAFETY: the entry is reserved with the size of the struct, and `fill` has written the fields that are read.
    copy_arguments(unsafe { &mut *event });
    entry.submit(NO_WAKEUP);
    true
}

/// Not inlined, so that both callers share the code; the verifier follows the one that is used.
#[inline(never)]
fn fill(event: *mut ProcessEvent, process: u64) {
    let task = current_task();
    let leader: *const c_void = probe(task, offset!(task_group_leader));
    let parent: *const c_void = probe(leader, offset!(task_real_parent));
    let tgid = (process >> 32) as u32;
    let start_boottime_ns: u64 = probe(leader, offset!(task_start_boottime));
    let uid = bpf_get_current_uid_gid() as u32;
    let parent_tgid = probe(parent, offset!(task_tgid));
    let exec_id = probe(task, offset!(task_self_exec_id));
    let flags = if is_tracked(tgid, start_boottime_ns) { PROCESS_TRACKED } else { 0 };
    // SAFETY: the entry is reserved with the size of the struct; this writes all fields but the unused ends of paths.
    let event = unsafe { &mut *event };
    event.kind = KIND_PROCESS;
    event.flags = flags;
    event.tgid = tgid;
    event.process = process;
    event.start_boottime_ns = start_boottime_ns;
    event.exec_id = exec_id;
    event.parent_tgid = parent_tgid;
    event.uid = uid;
    probe_bytes(&mut event.comm, leader, offset!(task_comm));
    event.path_length = copy_path(&mut event.path, task);
    let (cgroup_length, is_whole) = copy_cgroup(&mut event.cgroup, task);
    event.cgroup_length = cgroup_length;
    event.arguments_length = 0;
    if !is_whole {
        event.flags |= PROCESS_CGROUP_CUT;
    }
}

/// Whether this process is the recorded command or a descendant of it.
#[inline(always)]
pub fn is_tracked(tgid: u32, start_boottime_ns: u64) -> bool {
    // SAFETY: the value is read at once.
    let start = unsafe { TRACKED.get(tgid) };
    start.is_some_and(|start| *start == start_boottime_ns || *start == ANY_START)
}

/// The same number, but the compiler does not know that. So it does not leave out a mask that changes nothing, which the
/// verifier needs: before Linux 6.2 (at least) it forgets a comparison of a value that was in memory meanwhile.
#[inline(always)]
fn hidden(number: usize) -> usize {
    // SAFETY: a local variable.
    unsafe { core::ptr::read_volatile(&raw const number) }
}

/// Writes the path of the task's executable into `path`, last component first, each with its NUL, as `d_path` would
/// name it from the task's own root. Returns the bytes used.
#[inline(always)]
fn copy_path(path: &mut [u8; PATH_BYTES], task: *const c_void) -> u16 {
    let mm: *const c_void = probe(task, offset!(task_mm));
    let file: *const c_void = probe(mm, offset!(mm_exe_file));
    let mut mnt: *const c_void = probe(file, offset!(file_path_mnt));
    let mut dentry: *const c_void = probe(file, offset!(file_path_dentry));
    let fs: *const c_void = probe(task, offset!(task_fs));
    let root_mnt: *const c_void = probe(fs, offset!(fs_root_mnt));
    let root_dentry: *const c_void = probe(fs, offset!(fs_root_dentry));
    let mut used: usize = 0;
    for _ in 0..PATH_STEPS {
        if dentry.is_null() || (dentry == root_dentry && mnt == root_mnt) {
            break;
        }
        let mount_root: *const c_void = probe(mnt, offset!(vfsmount_root));
        if dentry == mount_root {
            let mount = mnt.wrapping_byte_sub(offset!(mount_mnt));
            let parent: *const c_void = probe(mount, offset!(mount_parent));
            if parent == mount {
                break;
            }
            dentry = probe(mount, offset!(mount_mountpoint));
            mnt = parent.wrapping_byte_add(offset!(mount_mnt));
            continue;
        }
        if used >= PATH_BYTES / 2 {
            break;
        }
        let name: *const c_void = probe(dentry, offset!(dentry_name));
        let target = path.as_mut_ptr().wrapping_add(used & hidden(PATH_BYTES / 2 - 1));
        // SAFETY: at least COMPONENT_BYTES are left behind `target`; the helper checks the address of the name.
        let copied = unsafe { bpf_probe_read_kernel_str(target.cast(), COMPONENT_BYTES as u32, name) };
        if copied <= 0 || copied > COMPONENT_BYTES as i64 {
            break;
        }
        // The mask changes nothing; it gives all ways through the loop the same range, so that the verifier sees at
        // once that it has been here, instead of trying each of them.
        used = (used + copied as usize) & (PATH_BYTES - 1);
        let parent: *const c_void = probe(dentry, offset!(dentry_parent));
        if parent == dentry {
            // Not in any directory: a memfd, say.
            break;
        }
        dentry = parent;
    }
    used as u16
}

/// Writes the path of the task's cgroup into `path`, as `copy_path` does. Returns the bytes used, and whether that is
/// all of it, up to the root of the tree.
///
/// Here, because the cgroup may be gone as soon as the process is, and its id tells nobody anything then. Cgroups of
/// version 2 keep their names and places, so the path is of one moment.
#[inline(always)]
fn copy_cgroup(path: &mut [u8; CGROUP_BYTES], task: *const c_void) -> (u16, bool) {
    let css_set: *const c_void = probe(task, offset!(task_cgroups));
    let cgroup: *const c_void = probe(css_set, offset!(css_set_dfl_cgrp));
    let mut node: *const c_void = probe(cgroup, offset!(cgroup_kn));
    let mut used: usize = 0;
    for _ in 0..CGROUP_STEPS {
        let parent: *const c_void = probe(node, offset!(kernfs_node_parent));
        if parent.is_null() {
            // The root has no name.
            return (used as u16, !node.is_null());
        }
        if used >= CGROUP_BYTES - COMPONENT_BYTES {
            break;
        }
        let name: *const c_void = probe(node, offset!(kernfs_node_name));
        let target = path.as_mut_ptr().wrapping_add(used);
        // SAFETY: at least COMPONENT_BYTES are left behind `target`; the helper checks the address of the name.
        let copied = unsafe { bpf_probe_read_kernel_str(target.cast(), COMPONENT_BYTES as u32, name) };
        if copied <= 0 || copied > COMPONENT_BYTES as i64 {
            break;
        }
        // As in `copy_path`.
        used = (used + copied as usize) & (CGROUP_BYTES - 1);
        node = parent;
    }
    (used as u16, false)
}

/// Copies the arguments of the current process out of its memory. What is not there right now (swapped out) cannot be
/// had: then there are none.
#[inline(always)]
fn copy_arguments(event: &mut ProcessEventWithArguments) {
    let mm: *const c_void = probe(current_task(), offset!(task_mm));
    let start: u64 = probe(mm, offset!(mm_arg_start));
    let end: u64 = probe(mm, offset!(mm_arg_end));
    let mut length = end.saturating_sub(start);
    if length > ARGUMENTS_BYTES as u64 {
        length = ARGUMENTS_BYTES as u64;
        event.process.flags |= PROCESS_ARGUMENTS_CUT;
    }
    let target = event.arguments.as_mut_ptr();
    // SAFETY: the target has at least `length` bytes; the helper checks the address of the source.
    let result = unsafe { bpf_probe_read_user(target.cast(), length as u32, start as *const c_void) };
    if result == 0 {
        event.process.arguments_length = length as u16;
    }
}
