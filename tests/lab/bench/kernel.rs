//! What the kernel says of a run's programs and maps, through the descriptors that its supervisor holds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel takes the time of BPF programs as long as this lives.
pub(super) struct Statistics {
    /// Puts the old value back when its stdin ends: also if this process is killed.
    keeper: Child,
}

impl Statistics {
    pub(super) fn on() -> Self {
        let old = fs::read_to_string(STATISTICS)
            .expect("read kernel.bpf_stats_enabled (the kernel counts nothing?)");
        let script = format!("cat >/dev/null; echo {} >{STATISTICS}", old.trim());
        let keeper = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("start a shell");
        fs::write(STATISTICS, "1").expect("switch kernel.bpf_stats_enabled on");
        Self { keeper }
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// How often a program ran and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) runs: u64,
    pub(super) nanoseconds: u64,
}

/// The programs of a run, held: once it is under way, its supervisor holds no more than their links.
pub(super) struct Programs {
    held: Vec<OwnedFd>,
    names: BTreeMap<String, String>,
}

impl Programs {
    /// Those of a run that has just begun.
    pub(super) fn hold(supervisor: u32) -> Self {
        let pid = i32::try_from(supervisor).ok().and_then(Pid::from_raw);
        let process = pidfd_open(pid.expect("a process id"), PidfdFlags::empty())
            .expect("open the supervisor");
        let described = numbered(supervisor);
        let is_program = |(_, about): &&(RawFd, Described)| about.contains_key("run_cnt");
        let held: Vec<_> = described
            .iter()
            .filter(is_program)
            .map(|(number, _)| {
                pidfd_getfd(&process, *number, PidfdGetfdFlags::empty())
                    .expect("take hold of a program")
            })
            .collect();
        assert!(!held.is_empty(), "the supervisor holds no programs");
        let described: Vec<_> = described.into_iter().map(|(_, about)| about).collect();
        Self {
            held,
            names: hooks(&described),
        }
    }

    /// What they cost so far, by where they are attached.
    pub(super) fn costs(&self) -> BTreeMap<String, Cost> {
        let cost = |program: &OwnedFd| {
            let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
            let about = described(&fs::read_to_string(path).expect("read what a program is"));
            let cost = Cost {
                runs: number(&about, "run_cnt"),
                nanoseconds: number(&about, "run_time_ns"),
            };
            (named(&self.names, &about), cost)
        };
        let mut costs = BTreeMap::<_, Cost>::new();
        for (name, cost) in self.held.iter().map(cost) {
            // Several may be attached at one place.
            let all = costs.entry(name).or_default();
            all.runs += cost.runs;
            all.nanoseconds += cost.nanoseconds;
        }
        costs
    }
}

/// Where each program is attached, by its number.
fn hooks(described: &[Described]) -> BTreeMap<String, String> {
    let links = described.iter().filter(|fd| fd.contains_key("link_type"));
    let named = |link: &Described| {
        let hook = link.get("tp_name").cloned().or_else(|| {
            link.get("attach_type")
                .map(|kind| hook(kind).map_or_else(|| format!("hook {kind}"), str::to_owned))
        });
        (
            link["prog_id"].clone(),
            hook.unwrap_or_else(|| "?".to_owned()),
        )
    };
    links.map(named).collect()
}

fn named(names: &BTreeMap<String, String>, program: &Described) -> String {
    let id = &program["prog_id"];
    let kind = match program.get("prog_type").map(String::as_str) {
        Some("5") => Some("tracepoint"),
        // What is attached to a table of sockets is held there, and by no link.
        Some("16") => Some("sk_msg"),
        _ => None,
    };
    names
        .get(id)
        .cloned()
        .or_else(|| kind.map(str::to_owned))
        .unwrap_or_else(|| format!("program {id}"))
}

/// How many instructions the verifier looked at, of each program that a process holds, with where it is attached.
pub fn verified_instructions(supervisor: u32) -> Vec<(String, u64)> {
    let described = descriptors(supervisor);
    let names = hooks(&described);
    // The same program may be held twice.
    let programs: BTreeMap<_, _> = described
        .iter()
        .filter(|fd| fd.contains_key("run_cnt"))
        .map(|program| (number(program, "prog_id"), program))
        .collect();
    let verified = |program| (named(&names, program), number(program, "verified_insns"));
    let mut verified: Vec<_> = programs.into_values().map(verified).collect();
    verified.sort();
    verified
}

/// A map that a supervisor holds.
#[derive(Debug, Clone)]
pub(super) struct Map {
    pub(super) kind: u64,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) entries_max: u64,
    pub(super) bytes: u64,
}

impl Map {
    /// What it would take with every entry in use, where it grows with its entries: hash tables do, by a
    /// header of some 48 octets and what key and value are rounded up to.
    pub(super) fn bytes_full(&self) -> u64 {
        const HASH: u64 = 1;
        if self.kind != HASH {
            return self.bytes;
        }
        let entry = 48 + self.key.next_multiple_of(8) + self.value.next_multiple_of(8);
        self.bytes.max(self.entries_max * (entry + 16))
    }
}

/// The maps of a run.
pub(super) fn maps(supervisor: u32) -> Vec<Map> {
    let mut found = BTreeMap::new();
    for map in descriptors(supervisor)
        .iter()
        .filter(|fd| fd.contains_key("map_type"))
    {
        // The same map may be held twice.
        found.insert(
            number(map, "map_id"),
            Map {
                kind: number(map, "map_type"),
                key: number(map, "key_size"),
                value: number(map, "value_size"),
                entries_max: number(map, "max_entries"),
                bytes: number(map, "memlock"),
            },
        );
    }
    assert!(!found.is_empty(), "the supervisor holds no maps");
    found.into_values().collect()
}

/// The most memory that a process ever had, in KiB, looked at until its very end.
pub(super) struct HighWater(JoinHandle<u64>);

impl HighWater {
    pub(super) fn watch(pid: u32) -> Self {
        Self(std::thread::spawn(move || {
            let mut highest = 0;
            // Gone, or a zombie: a zombie has no memory, and so no such line.
            while let Some(now) = high_water(pid) {
                highest = highest.max(now);
                std::thread::sleep(Duration::from_millis(2));
            }
            highest
        }))
    }

    /// Once the process is gone.
    pub(super) fn kibibytes(self) -> u64 {
        self.0.join().expect("the watcher does not panic")
    }
}

fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

type Described = BTreeMap<String, String>;

fn descriptors(pid: u32) -> Vec<Described> {
    let of = numbered(pid).into_iter();
    of.map(|(_, about)| about).collect()
}

/// What each descriptor of a process is, with its number.
fn numbered(pid: u32) -> Vec<(RawFd, Described)> {
    let dir = format!("/proc/{pid}/fdinfo");
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let text = fs::read_to_string(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, described(&text)))
    };
    fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("read {dir}: {e}"))
        .filter_map(read)
        .collect()
}

fn described(text: &str) -> Described {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn number(described: &Described, key: &str) -> u64 {
    described
        .get(key)
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("the kernel does not tell {key}: {described:?}"))
}

/// The numbers of enum bpf_attach_type (include/uapi/linux/bpf.h) that the product uses.
fn hook(attach_type: &str) -> Option<&'static str> {
    Some(match attach_type {
        "0" => "cgroup_skb/ingress",
        "1" => "cgroup_skb/egress",
        "2" => "cgroup/sock_create",
        "3" => "sockops",
        "10" => "cgroup/connect4",
        "11" => "cgroup/connect6",
        "14" => "cgroup/sendmsg4",
        "15" => "cgroup/sendmsg6",
        "25" => "fexit",
        "29" => "cgroup/getpeername4",
        "30" => "cgroup/getpeername6",
        "34" => "cgroup/sock_release",
        "43" => "lsm_cgroup",
        "49" => "cgroup/connect_unix",
        "50" => "cgroup/sendmsg_unix",
        _ => return None,
    })
}
