//! What file a path means, as far as the kernel can tell without asking a file system.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;

use super::Contact;
use super::servers::Inode;
use crate::process;

/// How often a path is looked up anew while others change what the kernel has in memory.
const RACES: u32 = 16;
/// By how much a file system's clock may be behind, in nanoseconds.
const TICK: i64 = 20_000_000;
/// File systems that have nothing to wait for.
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];

/// What a path means.
#[derive(Debug)]
pub(super) enum Place {
    /// A socket, and its path without links.
    Socket(Inode, String),
    /// No socket: nothing was reached.
    Nothing,
    /// That cannot be told.
    Unknown,
}

impl Place {
    /// As the process sees it that reached for the path, or saw it.
    pub(super) fn of(contact: &Contact) -> Self {
        let theirs = process::numbered_as_recorded()
            .then(|| Root::of(&contact.tgid.to_string()))
            .flatten();
        match theirs.or_else(|| Root::of("self")) {
            Some(root) => root.place(&contact.path, contact.since),
            None => Self::Unknown,
        }
    }
}

/// Where a process's paths begin.
struct Root {
    directory: OwnedFd,
    process: String,
}

impl Root {
    fn of(process: &str) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{process}/root"), flags, Mode::empty());
        Some(Self {
            directory: directory.ok()?,
            process: process.to_owned(),
        })
    }

    fn place(&self, path: &str, since: i64) -> Place {
        let path = Path::new(path);
        match self.open(path, OFlags::empty()) {
            Ok(file) => told(&file),
            Err(Errno::NOENT | Errno::NOTDIR) if self.was_absent(path, since) => Place::Nothing,
            Err(Errno::AGAIN) if self.is_absent_in_memory(path) && self.was_absent(path, since) => {
                Place::Nothing
            }
            // Looking for the last of it may have brought the rest into memory.
            Err(Errno::AGAIN) => match self.open(path, OFlags::empty()) {
                Ok(file) => told(&file),
                Err(_) => Place::Unknown,
            },
            Err(_) => Place::Unknown,
        }
    }

    fn open(&self, path: &Path, more: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | more;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::CACHED;
        let mut opened = Err(Errno::AGAIN);
        for _ in 0..RACES {
            opened = openat2(&self.directory, path, flags, Mode::empty(), within);
            if !matches!(opened, Err(Errno::AGAIN)) {
                break;
            }
        }
        opened
    }

    /// The lowest directory of the path that is there, and the first name that is not.
    fn lowest<'p>(&self, path: &'p Path) -> Option<(OwnedFd, &'p Path)> {
        let mut missing = path;
        loop {
            let parent = missing.parent()?;
            match self.open(parent, OFlags::DIRECTORY) {
                Ok(directory) => return Some((directory, missing)),
                Err(_) => missing = parent,
            }
        }
    }

    /// Such file systems forget at once what is not there, and can be asked.
    fn is_absent_in_memory(&self, path: &Path) -> bool {
        let Some((directory, missing)) = self.lowest(path) else {
            return false;
        };
        let (Some(name), true) = (missing.file_name(), self.is_in_memory(&directory)) else {
            return false;
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let here = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let asked = openat2(&directory, Path::new(name), flags, Mode::empty(), here);
        matches!(asked, Err(Errno::NOENT))
    }

    fn is_in_memory(&self, directory: &OwnedFd) -> bool {
        let Some(facts) = facts(directory) else {
            return false;
        };
        let device = format!(" {}:{} ", facts.stx_dev_major, facts.stx_dev_minor);
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.process));
        let of_memory = |line: &str| {
            let kind = line.split_once(" - ").map(|(_, rest)| rest);
            let kind = kind.and_then(|rest| rest.split(' ').next());
            line.contains(&device) && kind.is_some_and(|kind| IN_MEMORY.contains(&kind))
        };
        table.is_ok_and(|table| table.lines().any(of_memory))
    }

    /// Was it not there at that time either? So it is if nothing has come to the lowest directory since, nor gone from it.
    fn was_absent(&self, path: &Path, since: i64) -> bool {
        // A link that leads nowhere may have led somewhere.
        if self.open(path, OFlags::NOFOLLOW).is_ok() {
            return false;
        }
        let lowest = self.lowest(path);
        let changed = lowest.and_then(|(directory, _)| facts(&directory));
        let moment = |facts: Statx| {
            let (seconds, rest) = (facts.stx_mtime.tv_sec, facts.stx_mtime.tv_nsec);
            seconds.saturating_mul(1_000_000_000) + i64::from(rest)
        };
        changed.is_some_and(|facts| moment(facts) + TICK < since)
    }
}

/// What the kernel knows of a file that is open, without asking for more.
fn facts(file: &OwnedFd) -> Option<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(file, "", flags, StatxFlags::BASIC_STATS).ok()
}

fn told(file: &OwnedFd) -> Place {
    let Some(facts) = facts(file) else {
        return Place::Unknown;
    };
    if FileType::from_raw_mode(facts.stx_mode.into()) != FileType::Socket {
        return Place::Nothing;
    }
    let own = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match own
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
    {
        Some(path) => Place::Socket(Inode::of(&facts), path),
        None => Place::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn of(path: &Path, since: i64) -> Place {
        Place::of(&Contact {
            path: path.display().to_string(),
            tgid: std::process::id(),
            since,
            attempts: 1,
        })
    }

    fn in_ns(of: SystemTime) -> i64 {
        let since = of.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_nanos()).unwrap()
    }

    /// On a disk and in memory: the one remembers what is not there, the other forgets it.
    #[test]
    fn a_path_is_what_it_leads_to_and_what_was_never_there_is_nothing() {
        for below in ["/var/tmp", "/dev/shm", "/tmp"] {
            let Ok(dir) = tempfile::Builder::new().prefix("bs-").tempdir_in(below) else {
                continue;
            };
            let dir = dir.path();
            let _keep = UnixListener::bind(dir.join("socket")).unwrap();
            fs::write(dir.join("file"), "").unwrap();
            for (link, to) in [("link", "socket"), ("links", "./link"), ("nowhere", "none")] {
                symlink(to, dir.join(link)).unwrap();
            }
            let later = in_ns(SystemTime::now() + Duration::from_secs(60));
            let own = dir.canonicalize().unwrap().join("socket");
            for name in ["socket", "link", "links", "../x/socket"] {
                let name = name.replace('x', dir.file_name().unwrap().to_str().unwrap());
                // As whoever reaches for it.
                let _ = fs::metadata(dir.join(&name));
                match of(&dir.join(&name), 0) {
                    Place::Socket(_, path) => assert_eq!(Path::new(&path), own, "{name}"),
                    other => panic!("{name}: {other:?}"),
                }
            }
            for (name, since, nothing) in [
                ("none", later, true),
                ("none/below", later, true),
                ("none", 0, false),
                // It may have led somewhere.
                ("nowhere", later, false),
                ("file", 0, true),
            ] {
                let _ = fs::metadata(dir.join(name));
                let place = of(&dir.join(name), since);
                assert_eq!(
                    matches!(place, Place::Nothing),
                    nothing,
                    "{name}: {place:?}"
                );
                assert!(!matches!(place, Place::Socket(..)), "{name}");
            }
        }
    }
}
