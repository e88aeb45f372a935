//! What the path of a cgroup says of the processes in it: their container, and their systemd unit. Pure text; no
//! container runtime is asked.
//!
//! A path may name several, one within the other: the innermost is taken, which is the nearest to the process.

/// The kinds of units that have processes of their own (systemd's src/basic/unit-def.c). Slices only hold other units.
const UNIT_KINDS: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];

/// The container: the id of Docker, containerd, CRI-O, Podman and their kin; the name that LXC, Incus, systemd-nspawn
/// and machined give.
pub(super) fn container(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    parts.iter().enumerate().rev().find_map(|(at, part)| {
        let (before, after) = (parts.get(..at)?, parts.get(at + 1));
        // In this group the runtime keeps itself, which is not in the container.
        let is_supervisor = after == Some(&"supervisor");
        let name = runtime_id(part).or_else(|| lxc_name(part, before));
        name.map(str::to_owned).or_else(|| machine_name(part).filter(|_| !is_supervisor))
    })
}

/// The systemd unit, with systemd's escapes as they are. In a container that runs systemd it is a unit of that one.
pub(super) fn unit(path: &str) -> Option<String> {
    let is_unit = |part: &&str| {
        let (name, kind) = part.rsplit_once('.').unwrap_or_default();
        !name.is_empty() && UNIT_KINDS.contains(&kind)
    };
    path.rsplit('/').find(is_unit).map(str::to_owned)
}

/// 64 hexadecimal digits, with what container runtimes put around them: `docker-ID.scope`, `/docker/ID`,
/// `cri-containerd-ID.scope`, `kubepods-POD.slice:cri-containerd:ID`, `crio-ID`, `libpod-ID.scope`, ...
fn runtime_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit(['-', ':']).next()?;
    let decoration = part.strip_suffix(id)?;
    // conmon watches over a container of CRI-O or Podman from outside (`crio-conmon-ID.scope`).
    let is_monitor = decoration.ends_with("conmon-");
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && !is_monitor).then_some(id)
}

/// `lxc.payload.NAME`; before LXC 4, and in Proxmox, `/lxc/NAME`. `lxc.monitor.NAME` holds what is outside.
fn lxc_name<'a>(part: &'a str, before: &[&str]) -> Option<&'a str> {
    let name = match before {
        // An absolute path begins with an empty part.
        ["", "lxc"] => Some(part),
        _ => part.strip_prefix("lxc.payload."),
    };
    name.filter(|name| !name.is_empty())
}

/// `machine-NAME.scope` of machined, `systemd-nspawn@NAME.service`; the name unescaped, as `machinectl` knows it.
fn machine_name(part: &str) -> Option<String> {
    let scope = part.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"));
    let service = || part.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"));
    let name = unescaped(scope.or_else(service)?)?;
    // libvirt registers virtual machines too; their emulator is in no container.
    (!name.is_empty() && !name.starts_with("qemu-")).then_some(name)
}

/// Undoes systemd's `\xNN`; none if what comes out is no text.
fn unescaped(name: &str) -> Option<String> {
    let mut pieces = name.split("\\x");
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(piece.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const INNER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    #[test]
    fn a_runtimes_container_is_found_by_its_id() {
        for path in [
            format!("/docker/{ID}"),
            format!("/docker/{ID}/init"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/docker-{ID}.scope/system.slice/nginx.service"),
            format!("/default/nerdctl-{ID}.scope"),
            format!("/k8s.io/{ID}"),
            format!("/kubepods/burstable/pod0b4ee2ba-6dd9-4e36-8a6b-1a0ecdb2ffd2/{ID}"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope"),
            format!("/kubepods/pod1/crio-{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/system.slice/web.service/libpod-payload-{ID}"),
            format!("/ecs/task/{ID}"),
        ] {
            assert_eq!(container(&path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn a_container_within_another_is_the_one_that_is_named() {
        assert_eq!(container(&format!("/docker/{ID}/docker/{INNER}")).as_deref(), Some(INNER));
        assert_eq!(container(&format!("/lxc.payload.box/docker/{INNER}")).as_deref(), Some(INNER));
        assert_eq!(container(&format!("/docker/{ID}/lxc.payload.box")).as_deref(), Some("box"));
    }

    #[test]
    fn a_machine_is_found_by_its_name() {
        for (path, name) in [
            ("/lxc.payload.web-1", "web-1"),
            ("/lxc.payload.web-1/system.slice/ssh.service", "web-1"),
            ("/lxc/101/ns/init.scope", "101"),
            (r"/machine.slice/machine-my\x2dbox.scope", "my-box"),
            (r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope", "my-box"),
            ("/machine.slice/systemd-nspawn@my-box.service/payload", "my-box"),
        ] {
            assert_eq!(container(path).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn what_is_in_no_container_has_none() {
        for path in [
            "",
            "/",
            "/user.slice/user-0.slice",
            "/system.slice/ssh.service",
            "/kubepods/besteffort/pod0b4ee2ba-6dd9-4e36-8a6b-1a0ecdb2ffd2",
            "/lxc.monitor.web-1",
            "/lxc",
            "/home/lxc/other",
            "lxc/of-a-path-without-its-beginning",
            "/machine.slice/machine-box.scope/supervisor",
            "/machine.slice/systemd-nspawn@my-box.service/supervisor",
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            r"/machine.slice/machine-\x.scope",
            r"/machine.slice/machine-\xff.scope",
            "/machine.slice/machine-.scope",
        ] {
            assert_eq!(container(path), None, "{path}");
        }
        for path in [
            format!("/kubepods.slice/kubepods-pod1.slice/crio-conmon-{ID}.scope"),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/machine.slice/machine-libpod_pod_{ID}.slice"),
            format!("/docker/{}", &ID[1..]),
        ] {
            assert_eq!(container(&path), None, "{path}");
        }
    }

    #[test]
    fn the_innermost_unit_is_the_one_that_is_named() {
        for (path, name) in [
            ("/init.scope", "init.scope"),
            ("/system.slice/ssh.service", "ssh.service"),
            ("/system.slice/foo.service/payload", "foo.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            (r"/system.slice/dev-disk-by\x2duuid-1.swap", r"dev-disk-by\x2duuid-1.swap"),
            ("/system.slice/cups.socket", "cups.socket"),
            ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-1.scope",
                "app-firefox-1.scope",
            ),
            ("/system.slice/docker-0.scope/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/outer.service/docker-0.scope", "docker-0.scope"),
        ] {
            assert_eq!(unit(path).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn what_is_in_no_unit_has_none() {
        for path in
            ["", "/", "/user.slice/user-1000.slice", "/docker/0", "/.service", "/service", "/a.timer/b"]
        {
            assert_eq!(unit(path), None, "{path}");
        }
    }
}
