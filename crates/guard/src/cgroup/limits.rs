//! The files by which the kernel limits a cgroup and tells what it used, in both versions.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blackstart_core::policy::{Cpus, Limits};
use blackstart_core::report::Applied;

use super::below::tree;
use super::{Hierarchy, RunCgroup};

/// The kernel hands processor time out anew this often.
const PERIOD_MICROS: u64 = 100_000;

/// A controller that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    /// Those that these limits need.
    pub(crate) fn needed(limits: &Limits) -> Vec<Self> {
        [
            limits.memory.map(|_| Self::Memory),
            limits.cpu.map(|_| Self::Cpu),
            limits.pids.map(|_| Self::Pids),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// As the kernel, and a policy, call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    /// A file that a cgroup2 directory has only with this controller.
    fn mark(self) -> &'static str {
        match self {
            Self::Memory => "memory.max",
            Self::Cpu => "cpu.max",
            Self::Pids => "pids.max",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Let cgroup2 groups below `parent` have a controller. `whole`: if need be, let the whole tree have it.
pub(super) fn enable(
    controller: Controller,
    hierarchy: &Hierarchy,
    parent: &Path,
    whole: bool,
) -> Result<(), String> {
    let lend = |dir: &Path| {
        let control = hierarchy.at(dir).join("cgroup.subtree_control");
        write(&control, &format!("+{controller}"))
    };
    let mut lent = lend(parent);
    // Not offered there, since the top does not hand it down.
    if let (Err(error), true) = (&lent, whole)
        && error.kind() == io::ErrorKind::NotFound
    {
        lent = lend(Path::new("")).and_then(|()| lend(parent));
    }
    lent.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            "neither cgroup2 nor a hierarchy of the first version offers the controller here".to_owned()
        } else if error.kind() == io::ErrorKind::ResourceBusy {
            "processes stand in the cgroup around the run's (as in a container, or in a run within a run), and the \
             kernel then lends it no controllers"
                .to_owned()
        } else {
            format!("cgroup2 does not lend the controller: {error}")
        }
    })
}

/// Where a limit was applied, and what remains open all the same.
pub(crate) type Outcome = Result<(Applied, Option<String>), String>;

impl RunCgroup {
    /// The directory with a controller's files.
    fn files(&self, controller: Controller) -> Result<(Applied, PathBuf), String> {
        if let Some(group) = self.first.iter().find(|group| group.has(controller)) {
            return Ok((Applied::V1, group.path()));
        }
        let why = self
            .lacking
            .iter()
            .find(|(lacking, _)| *lacking == controller)
            .map(|(_, why)| why.clone());
        match why {
            Some(why) => Err(why),
            None if self.path().join(controller.mark()).exists() => Ok((Applied::V2, self.path())),
            None => Err("the run's cgroup does not have the controller".to_owned()),
        }
    }

    /// Limit memory, swap included.
    pub(crate) fn limit_memory(&self, bytes: u64) -> Outcome {
        let (applied, dir) = self.files(Controller::Memory)?;
        let swap_counted = set_memory(&dir, applied, bytes).map_err(|error| unset(&dir, &error))?;
        let open = (!swap_counted && host_swaps())
            .then(|| "this kernel does not count swap, which the limit leaves open".to_owned());
        Ok((applied, open))
    }

    /// Limit processor time.
    pub(crate) fn limit_cpu(&self, cpus: Cpus) -> Outcome {
        let (applied, dir) = self.files(Controller::Cpu)?;
        set_cpu(&dir, applied, cpus).map_err(|error| unset(&dir, &error))?;
        Ok((applied, None))
    }

    /// Limit the number of processes and threads.
    pub(crate) fn limit_pids(&self, count: u32) -> Outcome {
        let (applied, dir) = self.files(Controller::Pids)?;
        write(&dir.join("pids.max"), &count.to_string()).map_err(|error| unset(&dir, &error))?;
        Ok((applied, None))
    }

    /// What it used so far, as far as the kernel tells.
    pub(crate) fn readings(&self) -> Readings {
        let dir = |controller| self.files(controller).ok();
        let mut readings = Readings::default();
        if let Some((applied, dir)) = dir(Controller::Memory) {
            readings.read_memory(&dir, applied);
        }
        if let Some((applied, dir)) = dir(Controller::Cpu) {
            readings.read_cpu(&dir, applied);
        }
        if let Some((_, dir)) = dir(Controller::Pids) {
            readings.read_pids(&dir);
        }
        readings
    }

    /// How many processes and threads there are now, where the kernel counts them.
    pub(crate) fn pids_now(&self) -> Option<u64> {
        let (_, dir) = self.files(Controller::Pids).ok()?;
        number(&dir.join("pids.current"))
    }
}

fn unset(dir: &Path, error: &io::Error) -> String {
    format!("it cannot be set in {}: {error}", dir.display())
}

/// What the kernel tells of a cgroup's use.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Readings {
    /// In bytes.
    pub(crate) peak_memory: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    /// How often the memory limit stood in the way of an allocation.
    pub(crate) memory_hits: Option<u64>,
    pub(crate) highest_pids: Option<u64>,
    pub(crate) forks_refused: Option<u64>,
    pub(crate) throttled_seconds: Option<f64>,
}

impl Readings {
    fn read_memory(&mut self, dir: &Path, applied: Applied) {
        match applied {
            Applied::V1 => {
                self.peak_memory = number(&dir.join("memory.max_usage_in_bytes"));
                self.memory_hits = first_hits(dir);
                // Each cgroup counts for itself.
                self.oom_kills = tree(dir)
                    .iter()
                    .filter_map(|dir| keyed(&dir.join("memory.oom_control"), "oom_kill"))
                    .reduce(u64::saturating_add);
            }
            _ => {
                self.peak_memory = number(&dir.join("memory.peak"));
                let events = dir.join("memory.events");
                self.memory_hits = keyed(&events, "max");
                self.oom_kills = keyed(&events, "oom_kill");
            }
        }
    }

    fn read_cpu(&mut self, dir: &Path, applied: Applied) {
        let stat = dir.join("cpu.stat");
        self.throttled_seconds = match applied {
            Applied::V1 => keyed(&stat, "throttled_time").map(Duration::from_nanos),
            _ => keyed(&stat, "throttled_usec").map(Duration::from_micros),
        }
        .map(|time| time.as_secs_f64());
    }

    fn read_pids(&mut self, dir: &Path) {
        self.highest_pids = number(&dir.join("pids.peak"));
        // Older kernels count in the cgroup of the process that could not fork, newer ones in all above it too.
        self.forks_refused = match keyed(&dir.join("pids.events"), "max") {
            Some(0) => tree(dir)
                .iter()
                .filter_map(|dir| keyed(&dir.join("pids.events"), "max"))
                .reduce(u64::saturating_add),
            told => told,
        };
    }
}

/// How often the limit stood in the way, in the first version: at least once, if its use came that close to it. Its
/// own counters are not kept any more by newer kernels (zero on 6.18, whatever happens).
fn first_hits(dir: &Path) -> Option<u64> {
    /// The kernel fails to charge a huge page, where one page would do.
    const CLOSE: u64 = 2 << 20;
    let sum = |files: [&str; 2]| {
        let numbers = files.iter().filter_map(|file| number(&dir.join(file)));
        numbers.reduce(u64::saturating_add)
    };
    let counted = sum(["memory.failcnt", "memory.memsw.failcnt"])?;
    let close = |most: &str, limit: &str| {
        let (most, limit) = (number(&dir.join(most)), number(&dir.join(limit)));
        most.zip(limit)
            .is_some_and(|(most, limit)| most.saturating_add(CLOSE) >= limit)
    };
    let met = close("memory.max_usage_in_bytes", "memory.limit_in_bytes")
        || close(
            "memory.memsw.max_usage_in_bytes",
            "memory.memsw.limit_in_bytes",
        );
    Some(counted.max(u64::from(met)))
}

/// Is swap counted in the limit, or kept out by it?
fn set_memory(dir: &Path, applied: Applied, bytes: u64) -> io::Result<bool> {
    let bytes = bytes.to_string();
    let (memory, swap, swap_value) = match applied {
        Applied::V1 => (
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            bytes.as_str(),
        ),
        // There is no file for the sum. What may not be swapped is killed at the limit, and does not slow the whole
        // host down to the speed of its disk.
        _ => ("memory.max", "memory.swap.max", "0"),
    };
    write(&dir.join(memory), &bytes)?;
    match write(&dir.join(swap), swap_value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn set_cpu(dir: &Path, applied: Applied, cpus: Cpus) -> io::Result<()> {
    let quota = u64::from(cpus.thousandths()) * PERIOD_MICROS / 1000;
    if applied != Applied::V1 {
        return write(&dir.join("cpu.max"), &format!("{quota} {PERIOD_MICROS}"));
    }
    write(&dir.join("cpu.cfs_period_us"), &PERIOD_MICROS.to_string())?;
    match write(&dir.join("cpu.cfs_quota_us"), &quota.to_string()) {
        // No group may be given more than one around it has: then that one holds, and is the tighter.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && held_above(dir, quota) => {
            Ok(())
        }
        other => other,
    }
}

/// Does a group around this one have no more than `quota` in a period of ours?
fn held_above(dir: &Path, quota: u64) -> bool {
    dir.ancestors().skip(1).any(|above| {
        let of = |file: &str| number(&above.join(file));
        // -1 for none, which is no number here.
        match (of("cpu.cfs_quota_us"), of("cpu.cfs_period_us")) {
            (Some(theirs), Some(period)) if period > 0 => {
                u128::from(theirs) * u128::from(PERIOD_MICROS)
                    <= u128::from(quota) * u128::from(period)
            }
            _ => false,
        }
    })
}

/// Is there anything to swap to?
fn host_swaps() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Into a file of the kernel's, never a new one.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind a key in a file of `key number` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(name, _)| *name == key)?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn files(all: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in all {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn each_version_has_its_own_words_for_memory() {
        let second = files(&[("memory.max", ""), ("memory.swap.max", "")]);
        assert!(set_memory(second.path(), Applied::V2, 2 << 30).unwrap());
        assert_eq!(read(&second, "memory.max"), "2147483648");
        assert_eq!(read(&second, "memory.swap.max"), "0");
        let first = files(&[
            ("memory.limit_in_bytes", ""),
            ("memory.memsw.limit_in_bytes", ""),
        ]);
        assert!(set_memory(first.path(), Applied::V1, 2 << 30).unwrap());
        assert_eq!(read(&first, "memory.limit_in_bytes"), "2147483648");
        assert_eq!(read(&first, "memory.memsw.limit_in_bytes"), "2147483648");
        // A kernel that does not count swap.
        let without = files(&[("memory.limit_in_bytes", "")]);
        assert!(!set_memory(without.path(), Applied::V1, 1 << 20).unwrap());
        // No file is ever made.
        let empty = files(&[]);
        assert!(set_memory(empty.path(), Applied::V2, 1 << 20).is_err());
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }

    #[test]
    fn processors_are_time_in_a_period() {
        let cpus = Cpus::from_thousandths(1500);
        let second = files(&[("cpu.max", "")]);
        set_cpu(second.path(), Applied::V2, cpus).unwrap();
        assert_eq!(read(&second, "cpu.max"), "150000 100000");
        let first = files(&[("cpu.cfs_quota_us", ""), ("cpu.cfs_period_us", "")]);
        set_cpu(first.path(), Applied::V1, cpus).unwrap();
        assert_eq!(read(&first, "cpu.cfs_quota_us"), "150000");
        assert_eq!(read(&first, "cpu.cfs_period_us"), "100000");
    }

    #[test]
    fn a_tighter_group_around_the_runs_holds() {
        let around = |quota: &str| {
            files(&[
                ("cpu.cfs_quota_us", "-1\n"),
                ("a/cpu.cfs_quota_us", quota),
                ("a/cpu.cfs_period_us", "50000\n"),
                ("a/b/cpu.cfs_quota_us", "-1\n"),
            ])
        };
        // One processor around, and one and a half are wanted.
        let tight = around("50000\n");
        assert!(held_above(&tight.path().join("a/b"), 150_000));
        for wide in ["100000\n", "-1\n"] {
            assert!(!held_above(&around(wide).path().join("a/b"), 150_000));
        }
    }

    #[test]
    fn what_was_used_is_read_in_both_versions() {
        let second = files(&[
            ("memory.peak", "4096\n"),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
            ),
            (
                "cpu.stat",
                "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500000\n",
            ),
            ("pids.peak", "12\n"),
            ("pids.events", "max 4\n"),
        ]);
        let mut readings = Readings::default();
        readings.read_memory(second.path(), Applied::V2);
        readings.read_cpu(second.path(), Applied::V2);
        readings.read_pids(second.path());
        let told = Readings {
            peak_memory: Some(4096),
            oom_kills: Some(1),
            memory_hits: Some(7),
            highest_pids: Some(12),
            forks_refused: Some(4),
            throttled_seconds: Some(1.5),
        };
        assert_eq!(readings, told);
        let first = files(&[
            ("memory.max_usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.failcnt", "0\n"),
            ("memory.memsw.failcnt", "7\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
            ),
            (
                "below/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            (
                "cpu.stat",
                "nr_periods 9\nnr_throttled 3\nthrottled_time 1500000000\n",
            ),
            ("pids.peak", "12\n"),
            ("pids.events", "max 0\n"),
            ("below/pids.events", "max 4\n"),
        ]);
        let mut readings = Readings::default();
        readings.read_memory(first.path(), Applied::V1);
        readings.read_cpu(first.path(), Applied::V1);
        readings.read_pids(first.path());
        assert_eq!(readings, told);
        // Kernels that do not count.
        let uncounted = |most| {
            first_hits(
                files(&[
                    ("memory.failcnt", "0\n"),
                    ("memory.max_usage_in_bytes", most),
                    ("memory.limit_in_bytes", "67108864\n"),
                ])
                .path(),
            )
        };
        assert_eq!(
            (uncounted("67000000\n"), uncounted("6700000\n")),
            (Some(1), Some(0))
        );
        let mut nothing = Readings::default();
        nothing.read_memory(files(&[]).path(), Applied::V2);
        nothing.read_pids(files(&[]).path());
        assert_eq!(nothing, Readings::default());
    }

    #[test]
    fn only_what_a_limit_needs_is_asked_for() {
        let limits = Limits {
            cpu: Some(Cpus::from_thousandths(500)),
            time: Some(Duration::from_secs(1)),
            ..Limits::default()
        };
        assert_eq!(Controller::needed(&limits), [Controller::Cpu]);
        assert!(Controller::needed(&Limits::default()).is_empty());
    }
}
