//! Where the fields are that the kernel side reads: byte offsets from the running kernel's own type information.

use btf_rs::{Backend, Btf, Type};
use recorder_shared::Offsets;

/// Where the kernel keeps its type information.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why the offsets are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The kernel has no type information, or it cannot be read.
    #[error(
        "cannot read the kernel's type information at {VMLINUX_BTF}: {0}; the kernel needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf(btf_rs::Error),
    /// A field is not where this version of the recorder knows to look.
    #[error("this kernel's struct {0} has no field {1}")]
    NoField(&'static str, &'static str),
    /// A struct has another name than this version of the recorder knows.
    #[error("this kernel has no struct {0}")]
    NoStruct(&'static str),
}

/// The kernel's type information, as far as it is needed before programs are loaded.
pub(super) struct KernelTypes {
    btf: Btf,
}

impl KernelTypes {
    /// Reads the running kernel's type information.
    pub(super) fn read() -> Result<Self, OffsetsError> {
        // Mapped, looking ten names up takes 40 ms; an index of all of them takes 140 ms to make. The file can be mapped
        // since Linux 6.16.
        let btf =
            Btf::from_file_with_backend(VMLINUX_BTF, Backend::Mmap).or_else(|_| Btf::from_file(VMLINUX_BTF));
        Ok(Self { btf: btf.map_err(OffsetsError::NoBtf)? })
    }

    /// The offsets that the kernel side is given.
    pub(super) fn offsets(&self) -> Result<Offsets, OffsetsError> {
        let task = self.find("task_struct")?;
        let mm = self.find("mm_struct")?;
        let file = self.find("file")?;
        let fs = self.find("fs_struct")?;
        let dentry = self.find("dentry")?;
        let mount = self.find("mount")?;
        let vfsmount = self.find("vfsmount")?;
        let css_set = self.find("css_set")?;
        let cgroup = self.find("cgroup")?;
        let kernfs_node = self.find("kernfs_node")?;
        let sock = self.find("sock")?;
        let tcp = self.find("tcp_sock")?;
        let socket = self.find("socket")?;
        let net = self.find("net")?;
        Ok(Offsets {
            task_group_leader: task.offset("group_leader")?,
            task_start_boottime: task.offset("start_boottime")?,
            task_start_time: task.offset("start_time")?,
            task_self_exec_id: task.offset("self_exec_id")?,
            task_flags: task.offset("flags")?,
            task_tgid: task.offset("tgid")?,
            task_pid: task.offset("pid")?,
            task_comm: task.offset("comm")?,
            task_real_parent: task.offset("real_parent")?,
            task_mm: task.offset("mm")?,
            task_fs: task.offset("fs")?,
            mm_arg_start: mm.offset("arg_start")?,
            mm_arg_end: mm.offset("arg_end")?,
            task_cgroups: task.offset("cgroups")?,
            css_set_dfl_cgrp: css_set.offset("dfl_cgrp")?,
            cgroup_kn: cgroup.offset("kn")?,
            kernfs_node_name: kernfs_node.offset("name")?,
            // The underscores came with 6.15.
            kernfs_node_parent: kernfs_node.offset("__parent").or_else(|_| kernfs_node.offset("parent"))?,
            mm_exe_file: mm.offset("exe_file")?,
            file_path_mnt: file.offset("f_path.mnt")?,
            file_path_dentry: file.offset("f_path.dentry")?,
            fs_root_mnt: fs.offset("root.mnt")?,
            fs_root_dentry: fs.offset("root.dentry")?,
            dentry_parent: dentry.offset("d_parent")?,
            dentry_name: dentry.offset("d_name.name")?,
            mount_parent: mount.offset("mnt_parent")?,
            mount_mountpoint: mount.offset("mnt_mountpoint")?,
            mount_mnt: mount.offset("mnt")?,
            vfsmount_root: vfsmount.offset("mnt_root")?,
            sock_family: sock.offset("__sk_common.skc_family")?,
            sock_protocol: sock.offset("sk_protocol")?,
            sock_type: sock.offset("sk_type")?,
            sock_wmem_alloc: sock.offset("sk_wmem_alloc")?,
            sock_num: sock.offset("__sk_common.skc_num")?,
            sock_dport: sock.offset("__sk_common.skc_dport")?,
            sock_rcv_saddr: sock.offset("__sk_common.skc_rcv_saddr")?,
            sock_daddr: sock.offset("__sk_common.skc_daddr")?,
            sock_v6_rcv_saddr: sock.offset("__sk_common.skc_v6_rcv_saddr")?,
            sock_v6_daddr: sock.offset("__sk_common.skc_v6_daddr")?,
            sock_net: sock.offset("__sk_common.skc_net.net")?,
            sock_cookie: sock.offset("__sk_common.skc_cookie")?,
            tcp_rcv_nxt: tcp.offset("rcv_nxt")?,
            tcp_bytes_received: tcp.offset("bytes_received")?,
            socket_sk: socket.offset("sk")?,
            net_inum: net.offset("ns.inum")?,
        })
    }

    /// How many parameters a kernel function has; none if there is no such function.
    pub(super) fn parameter_count(&self, function: &str) -> Option<usize> {
        let types = self.btf.resolve_types_by_name(function).ok()?;
        types.iter().find_map(|candidate| {
            let Type::Func(function) = candidate else { return None };
            match self.btf.resolve_chained_type(function).ok()? {
                Type::FuncProto(prototype) => Some(prototype.parameters.len()),
                _ => None,
            }
        })
    }

    /// The struct called `name`: a search through all types, so each is asked for once.
    fn find(&self, name: &'static str) -> Result<Struct<'_>, OffsetsError> {
        let types = self.btf.resolve_types_by_name(name).map_err(|_| OffsetsError::NoStruct(name))?;
        let candidates = types.into_iter().filter(|candidate| matches!(candidate, Type::Struct(_))).collect();
        Ok(Struct { types: self, name, candidates })
    }

    fn offset_of_path(&self, outer: &Type, path: &str) -> Option<u32> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let (offset, member) = self.member(outer, first)?;
        match rest {
            None => Some(offset),
            Some(rest) => Some(offset + self.offset_of_path(&member, rest)?),
        }
    }

    /// Finds a member by name, in anonymous structs and unions too: its offset and its type.
    fn member(&self, outer: &Type, name: &str) -> Option<(u32, Type)> {
        let (Type::Struct(outer) | Type::Union(outer)) = outer else { return None };
        outer.members.iter().find_map(|member| {
            let offset = member.bit_offset() / 8;
            match self.btf.resolve_name(member) {
                Ok(found) if found == name => Some((offset, self.resolved(member)?)),
                Ok(found) if !found.is_empty() => None,
                _ => self.member(&self.resolved(member)?, name).map(|(inner, found)| (offset + inner, found)),
            }
        })
    }

    /// The type of a member with typedefs, const and the like taken off.
    fn resolved(&self, member: &btf_rs::Member) -> Option<Type> {
        let mut found = self.btf.resolve_chained_type(member).ok()?;
        loop {
            found = match &found {
                Type::Typedef(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Const(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::Volatile(inner) => self.btf.resolve_chained_type(inner).ok()?,
                Type::TypeTag(inner) => self.btf.resolve_chained_type(inner).ok()?,
                _ => return Some(found),
            };
        }
    }
}

/// A struct of the kernel; several have the same name now and then.
struct Struct<'a> {
    types: &'a KernelTypes,
    name: &'static str,
    candidates: Vec<Type>,
}

impl Struct<'_> {
    /// The offset in bytes of the field at `path` (dots between nested members).
    fn offset(&self, path: &'static str) -> Result<u32, OffsetsError> {
        let mut candidates = self.candidates.iter();
        let found = candidates.find_map(|candidate| self.types.offset_of_path(candidate, path));
        found.ok_or(OffsetsError::NoField(self.name, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_tells_all_offsets() {
        let Ok(types) = KernelTypes::read() else {
            println!("skipped: no {VMLINUX_BTF} here");
            return;
        };
        let offsets = types.offsets().expect("every field is found");
        assert_eq!(offsets.sock_daddr, 0, "skc_daddr is the first member of sock_common: {offsets:?}");
        assert_eq!(offsets.sock_rcv_saddr, 4, "skc_rcv_saddr follows it: {offsets:?}");
        assert_eq!(offsets.sock_dport, 12, "the ports follow the hash: {offsets:?}");
        assert_eq!(offsets.sock_family, 16, "the family follows the ports: {offsets:?}");
        assert!(offsets.task_group_leader > 0 && offsets.net_inum > 0, "{offsets:?}");
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        let Ok(types) = KernelTypes::read() else {
            println!("skipped: no {VMLINUX_BTF} here");
            return;
        };
        let task = types.find("task_struct").expect("every kernel has tasks");
        let error = task.offset("no_such_field").expect_err("there is no such field");
        assert_eq!(error.to_string(), "this kernel's struct task_struct has no field no_such_field");
    }
}
