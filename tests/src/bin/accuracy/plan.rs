//! What is to be played.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "usage: accuracy [--attribution ebpf,procfs] [--scenario NAME]... [--quick] [--seed N] [--write FILE] [--keep FOLDER]
                [--rustnet PROGRAM] [--list]
  --attribution LIST   how the recorder finds owners: ebpf, procfs, or both, one after the other (ebpf)
  --scenario NAME      only the scenarios whose names begin so; repeatable
  --quick              small counts: what CI runs
  --seed N             of the workload that is different each time (from the clock)
  --write FILE         also replace the generated part of FILE
  --keep FOLDER        keep the recordings and the truth there
  --rustnet PROGRAM    also play a part of it under RustNet (cargo install rustnet-monitor), and compare
  --list               what there is";

/// How the recorder finds owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ebpf,
    Procfs,
}

impl Mode {
    /// As the option `--attribution` of the recorder has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Procfs => "procfs",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Ebpf, Self::Procfs].into_iter().find(|mode| mode.name() == name)
    }
}

/// What is to be played, and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) modes: Vec<Mode>,
    names: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) seed: u64,
    pub(crate) write: Option<String>,
    pub(crate) keep: Option<PathBuf>,
    pub(crate) rustnet: Option<String>,
    pub(crate) list: bool,
}

impl Plan {
    pub(crate) fn from_arguments(arguments: Vec<String>) -> Option<Self> {
        let mut plan = Self {
            modes: vec![Mode::Ebpf],
            names: Vec::new(),
            quick: false,
            seed: seed_from_clock(),
            write: None,
            keep: None,
            rustnet: None,
            list: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--attribution" => {
                    plan.modes = arguments.next()?.split(',').map(Mode::from_name).collect::<Option<_>>()?;
                }
                "--scenario" => plan.names.push(arguments.next()?),
                "--quick" => plan.quick = true,
                "--seed" => plan.seed = arguments.next()?.parse().ok()?,
                "--write" => plan.write = Some(arguments.next()?),
                "--keep" => plan.keep = Some(arguments.next()?.into()),
                "--rustnet" => plan.rustnet = Some(arguments.next()?),
                "--list" => plan.list = true,
                _ => return None,
            }
        }
        Some(plan)
    }

    /// Whether the scenario of this name is to be played.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| name.starts_with(wanted.as_str()))
    }

    /// The same in one mode.
    pub(crate) fn in_mode(&self, mode: Mode) -> Self {
        Self { modes: vec![mode], ..self.clone() }
    }

    /// The mode that is being played.
    pub(crate) fn mode(&self) -> Mode {
        self.modes[0]
    }

    /// A count: in full, or quick.
    pub(crate) const fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

fn seed_from_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64 % 1_000_000)
}
