//! The options that choose processes: the same for every command that has packets.

use clap::Args;
use nix::unistd::User;

use crate::selection::{self, BadValue, Comparison, Expr, Key, SyntaxError};

/// What the options have in common, behind the help of each command. Clap breaks its lines.
pub const AFTER_HELP: &str = "\
Choosing processes:
  The same option given several times means any of these, different ones mean all of them. An EXPR compares keys with values: \
key=value, key!=value, or key~pattern with *, ?, [...] and {a,b}. Keys are pid, ppid, name, exe, user (or uid), cgroup, unit \
and container. Comparisons are joined by not, and, or (which bind in this order) and parentheses. A value that holds spaces \
or parentheses stands in quotes.

  What is true of a process keeps its packets: --process 'name=curl or name=dig'. What is true of no process at all, as \
--process 'not name~sshd*', leaves packets out: those with a process of which it is false; packets without a process stay.";

/// Chooses packets by their processes.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    /// Only packets of the process with this id; repeatable, as all of these options
    #[arg(long = "pid", value_name = "PID", help_heading = "Processes", value_parser = |text: &str| equal(Key::Pid, text))]
    pids: Vec<Expr>,
    /// Only packets of processes with this name
    #[arg(long = "name", value_name = "NAME", help_heading = "Processes", value_parser = |text: &str| equal(Key::Name, text))]
    names: Vec<Expr>,
    /// Only packets of processes that run this executable, by its path
    #[arg(long = "exe", value_name = "PATH", help_heading = "Processes", value_parser = |text: &str| equal(Key::Exe, text))]
    executables: Vec<Expr>,
    /// Only packets of processes of this user, by name or number
    #[arg(long = "user", value_name = "USER", help_heading = "Processes", value_parser = |text: &str| equal(Key::User, text))]
    users: Vec<Expr>,
    /// Only packets of processes in this cgroup, by its path
    #[arg(long = "cgroup", value_name = "PATH", help_heading = "Processes", value_parser = |text: &str| equal(Key::Cgroup, text))]
    cgroups: Vec<Expr>,
    /// Only packets of processes in this systemd unit
    #[arg(long = "unit", value_name = "UNIT", help_heading = "Processes", value_parser = |text: &str| equal(Key::Unit, text))]
    units: Vec<Expr>,
    /// Only packets of processes in this container, by its name, its id, or at least 12 digits of that
    #[arg(long = "container", value_name = "ID", help_heading = "Processes", value_parser = |text: &str| equal(Key::Container, text))]
    containers: Vec<Expr>,
    /// Only packets of processes of which this is true, such as 'name=curl and not user=root'
    #[arg(long = "process", value_name = "EXPR", help_heading = "Processes", value_parser = parse)]
    processes: Vec<Expr>,
}

impl SelectionArgs {
    /// What all options together say; nothing if none was given.
    pub fn expr(&self) -> Option<Expr> {
        let Self { pids, names, executables, users, cgroups, units, containers, processes } = self;
        let options = [pids, names, executables, users, cgroups, units, containers, processes];
        Expr::all(options.into_iter().filter_map(|same| Expr::any(same.clone())).collect())
    }
}

fn equal(key: Key, value: &str) -> Result<Expr, BadValue> {
    Comparison::equal(key, value.as_bytes(), &user_id).map(Expr::Is)
}

fn parse(text: &str) -> Result<Expr, SyntaxError> {
    selection::parse(text, &user_id)
}

fn user_id(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Test {
        #[command(flatten)]
        selection: SelectionArgs,
    }

    fn expr(arguments: &[&str]) -> Result<String, String> {
        let test =
            Test::try_parse_from([&["test"], arguments].concat()).map_err(|error| error.to_string())?;
        Ok(test.selection.expr().map_or_else(String::new, |expr| expr.to_string()))
    }

    #[test]
    fn options_are_shorthands_for_expressions() {
        for (arguments, expected) in [
            (&[][..], ""),
            (&["--name", "curl"], "name=curl"),
            (&["--name", "curl", "--name", "dig"], "name=curl or name=dig"),
            (&["--name", "a b", "--user", "0"], "name=\"a b\" and user=0"),
            (
                &["--pid", "1", "--unit", "x.service", "--pid", "2", "--process", "not exe~/usr/*"],
                "(pid=1 or pid=2) and unit=x.service and not exe~/usr/*",
            ),
            (&["--process", "name=a or name=b", "--cgroup", "/"], "cgroup=/ and (name=a or name=b)"),
            (&["--container", "0123456789ab", "--exe", "/bin/x"], "exe=/bin/x and container=0123456789ab"),
        ] {
            assert_eq!(expr(arguments).as_deref(), Ok(expected), "{arguments:?}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_option_and_its_place() {
        let error = expr(&["--process", "name=curl and nmae=dig"]).unwrap_err();
        assert!(error.contains("'--process <EXPR>': there is no key `nmae`\n"), "{error}");
        assert!(
            error.contains("\n  name=curl and nmae=dig\n                ^ expected one of pid, "),
            "{error}"
        );
        for (arguments, word) in [
            (["--pid", "curl"], "is no process id"),
            (["--user", "nobody-of-this-name"], "there is no user `nobody-of-this-name` here"),
        ] {
            let error = expr(&arguments).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_user_is_known_by_name() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("nobody-of-this-name"), None);
    }
}
