//! What a contained command is not given: the privileges to change what guards it, and sight of the rest of the host.
//!
//! Its user ids stay as they are. It has processes, mounts and cgroups of its own to see (namespaces), and root in it
//! lacks the capabilities with which a guard could be taken down or walked around. Everything here is done by the
//! process itself between its birth and its becoming the program, in this order, and all of it or the program is not
//! started.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, statfs};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};
use rustix::process::chdir;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, remove_capability_from_bounding_set,
    set_capabilities, unshare_unsafe,
};

use super::filter::OutsideFilter;
use crate::support::mounted;

/// Gone for good: no program that is executed gets them back, by whatever bits its file has.
const DROPPED: [CapabilitySet; 9] = [
    // Namespaces, mounts, and what is not named below.
    CapabilitySet::SYS_ADMIN,
    // Programs, links and maps.
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    // Addresses, routes and filters of the host; devices that carry packets past every socket.
    CapabilitySet::NET_ADMIN,
    CapabilitySet::NET_RAW,
    // The memory and descriptors of processes outside.
    CapabilitySet::SYS_PTRACE,
    // The kernel itself, by modules or by its memory.
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    // Files by their handles, whatever is mounted over them.
    CapabilitySet::DAC_READ_SEARCH,
];

/// Files in which a program stands that the kernel starts, outside of any run, and those that tell the kernel what
/// to do to the host.
const KERNEL_HELPERS: [&CStr; 6] = [
    c"/proc/sys/kernel/core_pattern",
    c"/proc/sys/kernel/modprobe",
    c"/proc/sys/kernel/poweroff_cmd",
    c"/proc/sys/kernel/hotplug",
    c"/sys/kernel/uevent_helper",
    c"/proc/sysrq-trigger",
];

/// For file systems from which nothing need be executed.
const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// A kind of mount that shows more than the run, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// The processes of the run's namespace, instead of all; beside /proc, to be read.
    Processes,
    /// All of it, beside /sys to be read: what the kernel starts for devices stands in it.
    Devices,
    /// The run's cgroup and what is below it, to be read.
    Cgroups,
    /// All of it, to be read: cgroups of the first version, whose mounts know no other root.
    FirstCgroups,
    /// Nothing: programs and maps.
    Programs,
}

impl Sight {
    /// By the type of a mounted file system.
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "proc" => Self::Processes,
            "sysfs" => Self::Devices,
            "cgroup2" => Self::Cgroups,
            "cgroup" => Self::FirstCgroups,
            "bpf" => Self::Programs,
            _ => return None,
        })
    }

    /// What statfs says of it (linux/magic.h).
    fn magic(self) -> u64 {
        match self {
            Self::Processes => 0x9fa0,
            Self::Devices => 0x6265_6572,
            Self::Cgroups => 0x6367_7270,
            Self::FirstCgroups => 0x0027_e0eb,
            Self::Programs => 0xcafe_4a11,
        }
    }
}

/// Ready to be entered, with nothing left to allocate.
#[derive(Debug)]
pub struct Containment {
    mounts: Vec<(CString, Sight)>,
    covered: Vec<CString>,
    directory: CString,
    /// Descriptors of directories that it would inherit: what is mounted below them is as it is outside.
    open: Vec<RawFd>,
    filter: OutsideFilter,
}

impl Containment {
    /// For a command of this process. Directories that are `covered` are empty to it.
    ///
    /// # Errors
    /// If the mount table cannot be read, or the working directory.
    pub fn prepare(covered: &[PathBuf]) -> io::Result<Self> {
        let mounts = mounted().ok_or_else(|| io::Error::other("the mount table cannot be read"))?;
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        Ok(Self {
            mounts: shown(mounts)
                .into_iter()
                .map(|(at, sight)| Ok((path(&at)?, sight)))
                .collect::<io::Result<_>>()?,
            covered: covered
                .iter()
                .map(|at| path(at))
                .collect::<Result<_, _>>()?,
            directory: path(&std::env::current_dir().unwrap_or_else(|_| "/".into()))?,
            open: inherited_directories()?,
            filter: OutsideFilter::compile()?,
        })
    }

    /// Namespaces for the calling process, which must be in its cgroups already. Only async-signal-safe calls.
    pub(super) fn own_namespaces() -> Result<(), Errno> {
        // SAFETY: file descriptors stay shared with nobody anew; only a table of descriptors of its own would be a
        // danger to other threads, of which there is none in this process.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP) }?;
        // What is mounted outside from here on does not appear inside, nor the other way round.
        mount_change(
            c"/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
    }

    /// Show it no more than the run, in its own namespaces. Only async-signal-safe calls.
    pub(super) fn limit_mounts(&self) -> Result<(), Errno> {
        let stands_in_one = self.mounts.iter().any(|(_, sight)| is(c".", *sight));
        for (at, sight) in &self.mounts {
            // A mount that lies under another one is out of reach.
            if is(at, *sight) {
                limit(at, *sight)?;
            }
        }
        for at in &self.covered {
            match cover(at) {
                // It is not there, and so need not be covered.
                Err(Errno::NOENT | Errno::NOTDIR) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        for file in KERNEL_HELPERS {
            match mount_bind(file, file) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => other?,
            }
            read_only(file)?;
        }
        if stands_in_one {
            // The directory of old is still under its feet; by its path it is what it shall see.
            chdir(self.directory.as_c_str())?;
        }
        self.close_directories()
    }

    /// Whoever holds a lock on one holds it on: that is the caller's, too.
    fn close_directories(&self) -> Result<(), Errno> {
        for &number in &self.open {
            // SAFETY: inherited, and nobody else's in this process, which becomes another program.
            let directory = unsafe { BorrowedFd::borrow_raw(number) };
            if number > 2 {
                fcntl_setfd(directory, FdFlags::CLOEXEC)?;
                continue;
            }
            // A standard stream that is none, and stays one.
            let nothing = open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            match number {
                0 => dup2_stdin(&nothing)?,
                1 => dup2_stdout(&nothing)?,
                _ => dup2_stderr(&nothing)?,
            }
        }
        Ok(())
    }

    /// Close what leads outside without any capability, and give these away, for the calling process and all that comes of
    /// it. Only async-signal-safe calls.
    pub(super) fn drop_privileges(&self) -> Result<(), Errno> {
        let refused = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        self.filter.install().map_err(refused)?;
        let mut kept = capabilities(None)?;
        for dropped in DROPPED {
            remove_capability_from_bounding_set(dropped)?;
            kept.effective.remove(dropped);
            kept.permitted.remove(dropped);
            // With this the ambient set lacks them as well.
            kept.inheritable.remove(dropped);
        }
        set_capabilities(None, kept)
    }
}

/// Those that this process got from its caller, and leaves to what it starts.
fn inherited_directories() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        // SAFETY: looked at only; should it be closed meanwhile, the calls say so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let stays = fcntl_getfd(descriptor).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC));
        let is_one = || {
            let about = fstat(descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode));
            about == Ok(FileType::Directory)
        };
        if stays && is_one() {
            found.push(number);
        }
    }
    Ok(found)
}

/// The mounts that show too much, in the table's order: what is mounted on another one comes after it. Of those stacked
/// at one place the last one is to be seen.
fn shown(mounts: Vec<(String, PathBuf)>) -> Vec<(PathBuf, Sight)> {
    let mut last = BTreeMap::new();
    for (order, (kind, at)) in mounts.into_iter().enumerate() {
        last.insert(at, (order, Sight::of(&kind)));
    }
    let mut shown: Vec<_> = last
        .into_iter()
        .filter_map(|(at, (order, sight))| Some((order, at, sight?)))
        .collect();
    shown.sort_by_key(|(order, ..)| *order);
    shown
        .into_iter()
        .map(|(_, at, sight)| (at, sight))
        .collect()
}

fn is(at: &CStr, sight: Sight) -> bool {
    statfs(at).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(sight.magic()))
}

fn limit(at: &CStr, sight: Sight) -> Result<(), Errno> {
    match sight {
        Sight::Processes => {
            mount(c"proc", at, c"proc", PLAIN, None)?;
            // Of the usual one only some files are (KERNEL_HELPERS).
            if at == c"/proc" {
                Ok(())
            } else {
                read_only(at)
            }
        }
        Sight::Devices if at == c"/sys" => Ok(()),
        Sight::Devices => read_only(at),
        Sight::Cgroups => {
            // Who stands in it, or holds it open, may only read from here on, too.
            read_only(at)?;
            // All mounts of it are one file system, and the kernel mounts none over itself.
            cover(at)?;
            mount(c"cgroup2", at, c"cgroup2", PLAIN, None)?;
            read_only(at)
        }
        Sight::FirstCgroups => read_only(at),
        Sight::Programs => {
            read_only(at)?;
            cover(at)
        }
    }
}

/// This mount, not the file system for everybody.
fn read_only(at: &CStr) -> Result<(), Errno> {
    mount_remount(at, MountFlags::BIND | MountFlags::RDONLY | PLAIN, c"")
}

fn cover(at: &CStr) -> Result<(), Errno> {
    mount(
        c"blackstart",
        at,
        c"tmpfs",
        MountFlags::RDONLY | PLAIN,
        Some(c"size=4k,mode=0555"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_is_to_be_seen_is_the_last_at_its_place() {
        let mounts = [
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("sysfs", "/srv/root/sys"),
            ("tmpfs", "/sys/fs/cgroup"),
            ("cgroup", "/sys/fs/cgroup/pids"),
            ("cgroup2", "/sys/fs/cgroup/unified"),
            ("bpf", "/sys/fs/bpf"),
            ("bpf", "/mnt/bpf"),
            ("ext4", "/mnt/bpf"),
            ("proc", "/srv/root/proc"),
        ];
        let mounts = mounts.map(|(kind, at)| (kind.to_owned(), at.into()));
        let shown: Vec<_> = shown(mounts.into())
            .into_iter()
            .map(|(at, sight)| (at.display().to_string(), sight))
            .collect();
        assert_eq!(
            shown,
            [
                ("/proc".to_owned(), Sight::Processes),
                ("/sys".to_owned(), Sight::Devices),
                ("/srv/root/sys".to_owned(), Sight::Devices),
                ("/sys/fs/cgroup/pids".to_owned(), Sight::FirstCgroups),
                ("/sys/fs/cgroup/unified".to_owned(), Sight::Cgroups),
                ("/sys/fs/bpf".to_owned(), Sight::Programs),
                ("/srv/root/proc".to_owned(), Sight::Processes),
            ]
        );
    }
}
