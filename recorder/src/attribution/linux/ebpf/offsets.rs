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
        Ok(Offsets {
            task_group_leader: self.offset("task_struct", "group_leader")?,
            task_start_boottime: self.offset("task_struct", "start_boottime")?,
            task_self_exec_id: self.offset("task_struct", "self_exec_id")?,
            task_flags: self.offset("task_struct", "flags")?,
            task_tgid: self.offset("task_struct", "tgid")?,
            task_pid: self.offset("task_struct", "pid")?,
            task_comm: self.offset("task_struct", "comm")?,
            task_real_parent: self.offset("task_struct", "real_parent")?,
            task_mm: self.offset("task_struct", "mm")?,
            task_fs: self.offset("task_struct", "fs")?,
            mm_exe_file: self.offset("mm_struct", "exe_file")?,
            file_path_mnt: self.offset("file", "f_path.mnt")?,
            file_path_dentry: self.offset("file", "f_path.dentry")?,
            fs_root_mnt: self.offset("fs_struct", "root.mnt")?,
            fs_root_dentry: self.offset("fs_struct", "root.dentry")?,
            dentry_parent: self.offset("dentry", "d_parent")?,
            dentry_name: self.offset("dentry", "d_name.name")?,
            mount_parent: self.offset("mount", "mnt_parent")?,
            mount_mountpoint: self.offset("mount", "mnt_mountpoint")?,
            mount_mnt: self.offset("mount", "mnt")?,
            vfsmount_root: self.offset("vfsmount", "mnt_root")?,
            sock_family: self.offset("sock", "__sk_common.skc_family")?,
            sock_protocol: self.offset("sock", "sk_protocol")?,
            sock_type: self.offset("sock", "sk_type")?,
            sock_wmem_alloc: self.offset("sock", "sk_wmem_alloc")?,
            sock_num: self.offset("sock", "__sk_common.skc_num")?,
            sock_dport: self.offset("sock", "__sk_common.skc_dport")?,
            sock_rcv_saddr: self.offset("sock", "__sk_common.skc_rcv_saddr")?,
            sock_daddr: self.offset("sock", "__sk_common.skc_daddr")?,
            sock_v6_rcv_saddr: self.offset("sock", "__sk_common.skc_v6_rcv_saddr")?,
            sock_v6_daddr: self.offset("sock", "__sk_common.skc_v6_daddr")?,
            sock_net: self.offset("sock", "__sk_common.skc_net.net")?,
            net_inum: self.offset("net", "ns.inum")?,
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

    /// The offset in bytes of `path` (dots between nested members) in the struct called `name`.
    fn offset(&self, name: &'static str, path: &'static str) -> Result<u32, OffsetsError> {
        let missing = || OffsetsError::NoField(name, path);
        let types = self.btf.resolve_types_by_name(name).map_err(|_| missing())?;
        let mut structs = types.into_iter().filter(|candidate| matches!(candidate, Type::Struct(_)));
        let found = structs.find_map(|candidate| self.offset_of_path(&candidate, path));
        found.ok_or_else(missing)
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
            let found = self.resolved(member)?;
            match self.btf.resolve_name(member) {
                Ok(found_name) if found_name == name => Some((offset, found)),
                Ok(found_name) if !found_name.is_empty() => None,
                _ => self.member(&found, name).map(|(inner, found)| (offset + inner, found)),
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
        let error = types.offset("task_struct", "no_such_field").expect_err("there is no such field");
        assert_eq!(error.to_string(), "this kernel's struct task_struct has no field no_such_field");
    }
}
