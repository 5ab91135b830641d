//! The cgroup2 hierarchy, wherever it is mounted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A view of the cgroup2 tree that directories can be made in.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    top: PathBuf,
    /// Which part of the tree (of this cgroup namespace) `top` shows.
    root: PathBuf,
    /// `top` is reached through this descriptor, since no mount of the tree was visible.
    _detached: Option<OwnedFd>,
}

/// A line of mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    root: PathBuf,
    at: PathBuf,
    writable: bool,
}

impl Hierarchy {
    /// By the mount table; where that shows no writable mount (`ip netns exec` hides it, a container
    /// shows it read-only), a mount of our own that is attached nowhere.
    pub(crate) fn find() -> io::Result<Self> {
        // The one that shows most of the tree.
        let seen = visible()?.into_iter();
        match seen.min_by_key(|mount| mount.root.iter().count()) {
            Some(mount) => Ok(mount.into()),
            None => Self::detached(Path::new("/")),
        }
    }

    /// The view that shows `root`, as [`Self::root`] told it in this cgroup namespace; none if that part of the
    /// tree cannot be reached from here.
    pub(crate) fn showing(root: &Path) -> io::Result<Option<Self>> {
        if let Some(mount) = visible()?.into_iter().find(|mount| mount.root == root) {
            return Ok(Some(mount.into()));
        }
        // Above the root of this namespace; only a mount made outside of it shows that.
        if root.iter().any(|part| part == "..") {
            return Ok(None);
        }
        Self::detached(root).map(Some)
    }

    /// What this cgroup namespace has below `root`, by a mount that is attached nowhere.
    fn detached(root: &Path) -> io::Result<Self> {
        let fs = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&fs)?;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let top = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            top: top.join(root.strip_prefix("/").unwrap_or(root)),
            root: root.to_owned(),
            _detached: Some(mount),
        })
    }

    /// Which part of the tree (of this cgroup namespace) is seen.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in this process for a path below the mount.
    pub(crate) fn at(&self, relative: &Path) -> PathBuf {
        self.top.join(relative)
    }

    /// The caller's own cgroup, below the mount.
    pub(crate) fn own(&self) -> io::Result<PathBuf> {
        self.of("self")
    }

    /// The cgroup of a process, below the mount.
    pub(crate) fn of(&self, process: &str) -> io::Result<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        // None: a kernel without cgroup2 has no such line.
        let path = of_lines(&text).ok_or(io::ErrorKind::Unsupported)?;
        Ok(below(&path, &self.root))
    }
}

impl From<Mount> for Hierarchy {
    fn from(mount: Mount) -> Self {
        Self {
            top: mount.at,
            root: mount.root,
            _detached: None,
        }
    }
}

/// The inode of the caller's cgroup namespace: paths mean something within one only.
pub(super) fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/cgroup")?.ino())
}

/// The writable mounts of the tree.
fn visible() -> io::Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut seen = mounts(&table);
    seen.retain(|mount| mount.writable && mount.is_on_top());
    Ok(seen)
}

impl Mount {
    /// The table also lists mounts that a later one hides: their paths lead into that one.
    fn is_on_top(&self) -> bool {
        match statx(CWD, &self.at, AtFlags::empty(), StatxFlags::MNT_ID) {
            // Before 5.8 the kernel does not tell.
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 => self.at.is_dir(),
            Ok(found) => found.stx_mnt_id == self.id,
            Err(_) => false,
        }
    }
}

/// The cgroup2 path among the lines of `/proc/PID/cgroup`.
fn of_lines(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A process may outlive its cgroup.
    Some(PathBuf::from(
        path.strip_suffix(" (deleted)").unwrap_or(path),
    ))
}

/// `path` as seen below a mount that shows `root`. What lies outside of the mount cannot be named there:
/// the top stands for it.
fn below(path: &Path, root: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(rest) if !rest.iter().any(|part| part == "..") => rest.to_owned(),
        _ => PathBuf::new(),
    }
}

/// The cgroup2 mounts of a mount table.
fn mounts(table: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        if right.next()? != "cgroup2" {
            return None;
        }
        let superblock = right.nth(1)?;
        let mut left = left.split(' ');
        let id = left.next()?.parse().ok()?;
        let mut left = left.skip(2);
        let (root, at, options) = (left.next()?, left.next()?, left.next()?);
        let writable = [options, superblock]
            .iter()
            .all(|list| list.split(',').any(|option| option == "rw"));
        Some(Mount {
            id,
            root: unescape(root).into(),
            at: unescape(at).into(),
            writable,
        })
    };
    table.lines().filter_map(mount).collect()
}

/// The mount table writes blanks, tabs, line ends and backslashes as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_hybrid_and_container_mounts_are_found() {
        let table = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
52 50 0:38 /docker/a\\040b /mnt/my\\011cg ro,nosuid - cgroup2 cgroup rw
short line
";
        assert_eq!(
            mounts(table),
            [
                Mount {
                    id: 41,
                    root: "/".into(),
                    at: "/sys/fs/cgroup/unified".into(),
                    writable: true
                },
                Mount {
                    id: 52,
                    root: "/docker/a b".into(),
                    at: "/mnt/my\tcg".into(),
                    writable: false
                },
            ]
        );
    }

    #[test]
    fn own_path_is_told_below_the_mount() {
        assert_eq!(
            of_lines("4:memory:/x\n0::/a/b\n").unwrap(),
            Path::new("/a/b")
        );
        assert_eq!(of_lines("0::/a (deleted)\n").unwrap(), Path::new("/a"));
        assert_eq!(of_lines("4:memory:/x\n"), None);
        assert_eq!(below(Path::new("/a/b"), Path::new("/")), Path::new("a/b"));
        assert_eq!(
            below(Path::new("/docker/1/x"), Path::new("/docker/1")),
            Path::new("x")
        );
        assert_eq!(
            below(Path::new("/other"), Path::new("/docker/1")),
            Path::new("")
        );
        // Seen from inside a cgroup namespace that the process is not in.
        assert_eq!(below(Path::new("/../x"), Path::new("/")), Path::new(""));
    }

    #[test]
    fn a_detached_mount_shows_the_tree() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let whole = Hierarchy::detached(Path::new("/")).unwrap();
        assert!(whole.at(Path::new("cgroup.procs")).exists());
        assert!(Hierarchy::showing(Path::new("/../x")).unwrap().is_none());
    }
}
