//! What is in a cgroup before Blackstart comes to it: its processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use blackstart_kernel::FoundProcess;

use crate::process;

/// The kernel keeps no more of arguments.
const ARGV_MOST: usize = 4096;

/// These processes, as /proc tells of them; parents before what they started. None in a pid namespace of our own,
/// where the numbers are not those of the record.
pub(crate) fn processes(pids: &[i32]) -> Vec<FoundProcess> {
    if !process::numbered_as_recorded() {
        return Vec::new();
    }
    let found = pids.iter().filter_map(|pid| look(pid.cast_unsigned()));
    in_order(found.collect())
}

fn look(pid: u32) -> Option<FoundProcess> {
    let stat = process::stat(pid)?;
    // One that has ended acts no more.
    if matches!(stat.state, 'Z' | 'X') {
        return None;
    }
    let mut argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    argv.truncate(ARGV_MOST);
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    let exe = exe.map(|path| {
        let octets = path.as_os_str().as_bytes();
        octets
            .strip_suffix(b" (deleted)")
            .unwrap_or(octets)
            .to_vec()
    });
    let ticks = rustix::param::clock_ticks_per_second();
    Some(FoundProcess {
        tgid: pid,
        parent: stat.parent,
        started_ns: u64::try_from(u128::from(stat.started) * 1_000_000_000 / u128::from(ticks))
            .unwrap_or(0),
        exe: exe.unwrap_or_default(),
        argv,
    })
}

/// Parents first, and otherwise the oldest first. A parent may have the larger number, and the same start.
fn in_order(found: Vec<FoundProcess>) -> Vec<FoundProcess> {
    let mut left: BTreeMap<u32, FoundProcess> = found.into_iter().map(|of| (of.tgid, of)).collect();
    let mut by_age: Vec<(u64, u32)> = left.values().map(|of| (of.started_ns, of.tgid)).collect();
    by_age.sort_unstable();
    let mut ordered = Vec::with_capacity(left.len());
    for (_, tgid) in by_age {
        let mut line = Vec::new();
        let mut next = left.remove(&tgid);
        while let Some(process) = next {
            next = left.remove(&process.parent);
            line.push(process);
        }
        ordered.extend(line.into_iter().rev());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first() {
        let process = |tgid, parent, started_ns| FoundProcess {
            tgid,
            parent,
            started_ns,
            exe: Vec::new(),
            argv: Vec::new(),
        };
        let order =
            |found: Vec<FoundProcess>| in_order(found).iter().map(|of| of.tgid).collect::<Vec<_>>();
        // 9 wrapped around to 3 within one tick; 5 is older and nobody's.
        assert_eq!(
            order(vec![process(3, 9, 7), process(9, 1, 7), process(5, 1, 2)]),
            [5, 9, 3]
        );
        // A circle cannot be, and would be no end.
        assert_eq!(order(vec![process(3, 9, 7), process(9, 3, 7)]).len(), 2);
    }

    #[test]
    fn a_process_is_looked_at() {
        let own = look(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.exe, exe.as_os_str().as_bytes());
        let words = std::env::args_os()
            .map(|word| word.len() + 1)
            .sum::<usize>();
        assert_eq!(own.argv.len(), words.min(ARGV_MOST));
        assert_eq!(look(0), None);
    }
}
