//! Network namespaces of our own, so that no test meets another's traffic, or the machine's.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::must;
use crate::sys;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with loopback up. Dropped, it is deleted, and with it the interfaces in it.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace; the label makes its name readable.
    pub fn new(label: &str) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("recorder-{}-{number}-{label}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in this namespace, and in nothing else new.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
        let mut command = Command::new(program);
        sys::enter_before_exec(&mut command, file);
        command
    }

    /// A command that `ip netns exec` runs, with a mount namespace of its own whose /sys has no cgroups.
    pub fn ip_netns_exec(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip` on this namespace.
    pub fn ip(&self, arguments: &[&str]) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all)
    }

    /// Sets a kernel parameter (path below /proc/sys) in this namespace.
    pub fn set(&self, parameter: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/{parameter}");
        must(self.command("sh").args(["-c", &script]));
    }

    /// The Ethernet address of one of its interfaces.
    pub fn mac(&self, interface: &str) -> String {
        let json = self.ip(&["-j", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&json).expect("ip -j writes JSON");
        links[0]["address"].as_str().expect("a link has an address").to_string()
    }

    /// Bytes and packets that an interface has sent: (packets, bytes).
    pub fn sent(&self, interface: &str) -> (u64, u64) {
        let json = self.ip(&["-j", "-s", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&json).expect("ip -j writes JSON");
        let sent = &links[0]["stats64"]["tx"];
        (sent["packets"].as_u64().unwrap_or(0), sent["bytes"].as_u64().unwrap_or(0))
    }

    /// Packets that an interface has received.
    pub fn received(&self, interface: &str) -> u64 {
        let json = self.ip(&["-j", "-s", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&json).expect("ip -j writes JSON");
        links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0)
    }
}

/// Deletes what test programs left behind that were killed, and so could not clean up.
fn sweep() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return };
    for name in folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("recorder-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test program may be sweeping too.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Deleting is all that can be done here, also on the way out of a panic.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Connects two namespaces by a veth pair, named `eth1` in both for subnet 1. The first has 10.77.1.1/24 and
/// fd77:1::1/64, the second the same with .2 and ::2.
pub fn connect(first: &Namespace, second: &Namespace, subnet: u8) {
    let device = format!("eth{subnet}");
    let (a, b) = (first.name(), second.name());
    ip(&["link", "add", &device, "netns", a, "type", "veth", "peer", "name", &device, "netns", b]);
    for (namespace, host) in [(first, 1), (second, 2)] {
        // No link-local address, and no check for duplicates: both would send packets of their own, and take time.
        namespace.ip(&["link", "set", "dev", &device, "addrgenmode", "none"]);
        namespace.ip(&["address", "add", &format!("10.77.{subnet}.{host}/24"), "dev", &device]);
        namespace.ip(&["address", "add", &format!("fd77:{subnet}::{host}/64"), "dev", &device, "nodad"]);
    }
    for namespace in [first, second] {
        namespace.ip(&["link", "set", "dev", &device, "up"]);
    }
}

fn ip(arguments: &[&str]) -> String {
    must(Command::new("ip").args(arguments)).stdout
}
